/* Replays an episode: replay FILE N_STEPS N_ROUNDS [untimed]. The file has N_STEPS rows of observations as float32; each round
 * starts with a reset. Prints the time of each step in nanoseconds, unless a fourth argument says that it is not timed. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "${prefix}_policy.h"

static void replay(const float *obs, long n_steps, long n_rounds, long *times)
{
    ${prefix}_state_t state;
    float action[${PREFIX}_ACTION_DIM];
    for (long round = 0; round < n_rounds; round++) {
        ${prefix}_reset(&state);
#ifdef ${PREFIX}_BAD_BUDGET
        ${prefix}_set_budget(&state, 0.0f);
#endif
        for (long t = 0; t < n_steps; t++) {
            struct timespec start, end;
            if (times)
                clock_gettime(CLOCK_MONOTONIC, &start);
            ${prefix}_step(&state, obs + t * ${PREFIX}_OBS_DIM, action);
            if (times) {
                clock_gettime(CLOCK_MONOTONIC, &end);
                *times++ = (end.tv_sec - start.tv_sec) * 1000000000L + (end.tv_nsec - start.tv_nsec);
            }
        }
    }
}

int main(int argc, char **argv)
{
    int timed = argc == 4;
    long n_steps = argc > 3 ? atol(argv[2]) : 0;
    long n_rounds = argc > 3 ? atol(argv[3]) : 0;
    float *obs = malloc(sizeof(float) * ${PREFIX}_OBS_DIM * (size_t)n_steps);
    long *times = timed ? malloc(sizeof(long) * (size_t)(n_steps * n_rounds)) : NULL;
    FILE *file = argc > 3 ? fopen(argv[1], "rb") : NULL;
    if (!obs || (timed && !times) || !file)
        return 1;
    if (fread(obs, sizeof(float) * ${PREFIX}_OBS_DIM, (size_t)n_steps, file) != (size_t)n_steps)
        return 1;
    fclose(file);
    replay(obs, n_steps, n_rounds, times);
    for (long i = 0; timed && i < n_steps * n_rounds; i++)
        printf("%ld\n", times[i]);
    free(obs);
    free(times);
    return 0;
}
