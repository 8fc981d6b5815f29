/* part: members */
    float shift[$n_column + $n_prices];                         /* what the cost coefficient adds in the master */
/* part: declaration */

#define ${PREFIX}_BAD_COST_COEF (-3) /* a cost coefficient is out of its range */

/* From now on, choose under another cost coefficient: the return per step that the most expensive network must be worth,
 * $low to $high. After a reset it is $cost_coef. Returns 0 or a negative code. */
int ${prefix}_set_cost_coef(${prefix}_state_t *state, float cost_coef);
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
    return 0;
}
/* part: reset */
    for (int i = 0; i < $n_column + $n_prices; i++)
        state->shift[i] = 0.0f;
