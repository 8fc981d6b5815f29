/* Replays an episode: replay FILE N_STEPS N_ROUNDS. The file has N_STEPS rows of observations as float32; each round starts
 * with a reset. Prints the time of each step in nanoseconds. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "${prefix}_policy.h"

int main(int argc, char **argv)
{
    long n_steps = argc == 4 ? atol(argv[2]) : 0;
    long n_rounds = argc == 4 ? atol(argv[3]) : 0;
    float *obs = malloc(sizeof(float) * ${PREFIX}_OBS_DIM * (size_t)n_steps);
    long *times = malloc(sizeof(long) * (size_t)(n_steps * n_rounds));
    FILE *file = argc == 4 ? fopen(argv[1], "rb") : NULL;
    ${prefix}_state_t state;
    float action[${PREFIX}_ACTION_DIM];
    if (!obs || !times || !file || fread(obs, sizeof(float) * ${PREFIX}_OBS_DIM, (size_t)n_steps, file) != (size_t)n_steps)
        return 1;
    fclose(file);
    for (long round = 0; round < n_rounds; round++) {
        ${prefix}_reset(&state);
        for (long t = 0; t < n_steps; t++) {
            struct timespec start, end;
            clock_gettime(CLOCK_MONOTONIC, &start);
            ${prefix}_step(&state, obs + t * ${PREFIX}_OBS_DIM, action);
            clock_gettime(CLOCK_MONOTONIC, &end);
            times[round * n_steps + t] = (end.tv_sec - start.tv_sec) * 1000000000L + (end.tv_nsec - start.tv_nsec);
        }
    }
    for (long i = 0; i < n_steps * n_rounds; i++)
        printf("%ld\n", times[i]);
    free(obs);
    free(times);
    return 0;
}
