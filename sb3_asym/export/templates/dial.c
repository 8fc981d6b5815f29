/* part: members */
    float cost_coef;                                            /* in force */
    float shift[$n_column + $n_prices];                         /* what it adds in the master */
/* part: declaration */

#define ${PREFIX}_BAD_COST_COEF (-3) /* a cost coefficient is out of its range */

/* From now on, choose under another cost coefficient: the return per step that the most expensive network must be worth,
 * $low to $high. After a reset it is $cost_coef. Returns 0 or a negative code. */
int ${prefix}_set_cost_coef(${prefix}_state_t *state, float cost_coef);

/* Call it after each step to spend a budget: it steers the cost coefficient so that the mean cost of a step tends to this share
 * of that of the most expensive network. */
void ${prefix}_keep_budget(${prefix}_state_t *state, float budget);
/* part: definition */

int ${prefix}_set_cost_coef(${prefix}_state_t *state, float cost_coef)
{
    if (!(cost_coef >= $low && cost_coef <= $high))
        return ${PREFIX}_BAD_COST_COEF;
    float position = $rate * logf(cost_coef / $cost_coef);
    for (int i = 0; i < $n_column; i++)
        state->shift[i] = dial_column[i] * position;
    for (int i = 0; i < $n_prices; i++)
        state->shift[$n_column + i] = -dial_prices[i] * (cost_coef - $cost_coef);
    state->cost_coef = cost_coef;
    return 0;
}

void ${prefix}_keep_budget(${prefix}_state_t *state, float budget)
{
    if (state->steps_left != ${PREFIX}_OPTION_LENGTH - 1)
        return; /* nothing was chosen in this step */
    float steered = state->cost_coef * expf($steering * (dial_cost_shares[state->option] - budget));
    ${prefix}_set_cost_coef(state, steered > $high ? $high : steered > $low ? steered : $low);
}
/* part: reset */
    state->cost_coef = $cost_coef;
    for (int i = 0; i < $n_column + $n_prices; i++)
        state->shift[i] = 0.0f;
