/* part: members */
    float cost_coef;                                            /* in force */
    float budget;                                               /* for which it is steered, or 0 */
    float shift[$n_column + $n_prices];                         /* what it adds in the master */
/* part: declaration */

#define ${PREFIX}_BAD_COST_COEF (-3) /* a cost coefficient is out of its range */
#define ${PREFIX}_BAD_BUDGET (-4)    /* a budget is not from 0 to 1 */

/* From now on, choose under another cost coefficient: the return per step that the most expensive network must be worth,
 * $low to $high; with a budget, it is steered from there on. After a reset it is $cost_coef. Returns 0 or a negative code. */
int ${prefix}_set_cost_coef(${prefix}_state_t *state, float cost_coef);

/* From now on, steer the cost coefficient so that the mean cost of a step tends to this share of that of the most expensive
 * network; 0 leaves it where it is. After a reset it is $budget. Returns 0 or a negative code.
 * A reset forgets what was steered: to go on with it in another episode, set state->steps_left to 0 instead. */
int ${prefix}_set_budget(${prefix}_state_t *state, float budget);
/* part: definition */

int ${prefix}_set_cost_coef(${prefix}_state_t *state, float cost_coef)
{
    if (!(cost_coef >= $low && cost_coef <= $high))
        return ${PREFIX}_BAD_COST_COEF;
    state->cost_coef = cost_coef;
    set_shift(state);
    return 0;
}

int ${prefix}_set_budget(${prefix}_state_t *state, float budget)
{
    if (!(budget >= 0.0f && budget <= 1.0f))
        return ${PREFIX}_BAD_BUDGET;
    state->budget = budget;
    set_shift(state); /* cost_coef has been steered since the last choice */
    return 0;
}
/* part: reset */
    state->cost_coef = $cost_coef;
    state->budget = $budget;
    for (int i = 0; i < $n_column + $n_prices; i++)
        state->shift[i] = 0.0f;
/* part: spend */
    if (state->budget > 0.0f) {
        float steered = state->cost_coef * expf($steering_rate * (dial_cost_shares[option] - state->budget));
        state->cost_coef = steered < $low ? $low : steered > $high ? $high : steered;
    }
/* part: shift */
static void set_shift(${prefix}_state_t *state)
{
    float position = $rate * logf(state->cost_coef / $cost_coef);
    for (int i = 0; i < $n_column; i++)
        state->shift[i] = dial_column[i] * position;
    for (int i = 0; i < $n_prices; i++)
        state->shift[$n_column + i] = -dial_prices[i] * (state->cost_coef - $cost_coef);
}

