/* Replays recorded steps. Prints what it found; exit code 0: all is as recorded. */
#include <math.h>
#include <stdio.h>

#include "${prefix}_policy.h"

#define N_STEPS $n_steps

static const float observations[N_STEPS][${PREFIX}_OBS_DIM] = {
$observations
};
static const unsigned char episode_starts[N_STEPS] = {
$episode_starts
};
static const short options[N_STEPS] = {
$options
};
static const float actions[N_STEPS][${PREFIX}_ACTION_DIM] = {
$actions
};
static const float tolerances[${PREFIX}_ACTION_DIM] = {$tolerances};

int main(void)
{
    ${prefix}_state_t state;
    float action[${PREFIX}_ACTION_DIM];
    float largest = 0.0f;
    int n_bad = 0;
    for (int t = 0; t < N_STEPS; t++) {
        int option, bad;
        if (episode_starts[t]) {
            ${prefix}_reset(&state);
#ifdef ${PREFIX}_BAD_BUDGET
            ${prefix}_set_budget(&state, 0.0f); /* the recording is under one cost coefficient */
#endif
        }
        option = ${prefix}_step(&state, observations[t], action);
        bad = option != options[t];
        for (int i = 0; i < ${PREFIX}_ACTION_DIM; i++) {
            float error = fabsf(action[i] - actions[t][i]);
            largest = error > largest ? error : largest;
            bad |= !(error <= tolerances[i]);
        }
        if (bad && n_bad++ < 5)
            printf("step %d: option %d, recorded %d; action[0] %.9g, recorded %.9g\n", t, option, options[t],
                   (double)action[0], (double)actions[t][0]);
    }
    printf("%s: %d of %d steps differ, largest error %.3g\n", n_bad ? "FAILED" : "ok", n_bad, N_STEPS, (double)largest);
    return n_bad != 0;
}
