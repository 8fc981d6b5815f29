/* Made by sb3-asym $version; see ${prefix}_policy.h. */
#include "${prefix}_policy.h"

#include <math.h>
#include <stdint.h>

$data
const char *const ${prefix}_option_names[${PREFIX}_N_OPTIONS] = {$option_names};

$functions
$networks
${shift}static int all_finite(const float *values, int n)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return 0;
    return 1;
}

static int hold(const ${prefix}_state_t *state, float *action, int code)
{
    for (int i = 0; i < ${PREFIX}_ACTION_DIM; i++)
        action[i] = state->last_action[i];
    return code;
}

void ${prefix}_reset(${prefix}_state_t *state)
{
    state->option = 0;
    state->steps_left = 0;
    for (int i = 0; i < ${PREFIX}_ACTION_DIM; i++)
        state->last_action[i] = action_rest[i];
$reset}

int ${prefix}_step(${prefix}_state_t *state, const float *obs, float *action)
{
    float y[$n_outputs];
    int option = state->option;
    int steps_left = state->steps_left;
    if (!all_finite(obs, ${PREFIX}_OBS_DIM))
        return hold(state, action, ${PREFIX}_BAD_OBSERVATION);
$normalize$choose$run_option    if (!all_finite(y, $n_actor_outputs))
        return hold(state, action, ${PREFIX}_BAD_ACTION);
$act    state->option = option;
    state->steps_left = steps_left - 1;
$spend    return hold(state, action, option);
}
$definition