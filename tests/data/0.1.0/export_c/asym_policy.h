/* A policy trained with AsymSAC.
 *
 * Made by sb3-asym 0.1.0. C99, no allocation, no dependency but math.h; do not compile with -ffast-math.
 *
 * Observation: 3 numbers, as the env gives them:
 *   0 to 2: observation, shape (3,)
 * Action: 1 number(s), within [-2, 2].
 * Networks: small 3-4-1 (fp32, 84 bytes); large 3-8-1 (fp32, 164 bytes); master 3-4-2 (fp32, 104 bytes).
 */
#ifndef ASYM_POLICY_H
#define ASYM_POLICY_H

#ifdef __cplusplus
extern "C" {
#endif

#define ASYM_OBS_DIM 3
#define ASYM_ACTION_DIM 1
#define ASYM_N_OPTIONS 2
#define ASYM_OPTION_LENGTH 3 /* steps for which a choice is held */

#define ASYM_BAD_OBSERVATION (-1) /* an observation is NaN or infinite */
#define ASYM_BAD_ACTION (-2)      /* an action would be */

typedef struct {
    int option;                              /* in force */
    int steps_left;                          /* that it has; at 0 the next step starts a new one */
    float last_action[ASYM_ACTION_DIM]; /* the last finite one */
} asym_state_t;

extern const char *const asym_option_names[ASYM_N_OPTIONS];

/* Call it before the first step of each episode. */
void asym_reset(asym_state_t *state);

/* One control step. Returns the option that was used, or a negative code: then the action is the last finite one
 * (the middle of the bounds, if there was none) and the state is as it was. */
int asym_step(asym_state_t *state, const float *obs, float *action);

#ifdef __cplusplus
}
#endif

#endif
