/* $title
 *
 * Made by sb3-asym $version. C99, no allocation, no dependency but math.h; do not compile with -ffast-math.
 *
 * Observation: $obs_dim numbers, as the env gives them$normalized:
$observation_lines
 * Action: $action_dim number(s), $action_text.
 * Networks: $network_text.
 */
#ifndef ${PREFIX}_POLICY_H
#define ${PREFIX}_POLICY_H

#ifdef __cplusplus
extern "C" {
#endif

#define ${PREFIX}_OBS_DIM $obs_dim
#define ${PREFIX}_ACTION_DIM $action_dim
#define ${PREFIX}_N_OPTIONS $n_options
#define ${PREFIX}_OPTION_LENGTH $option_length /* steps for which a choice is held */

#define ${PREFIX}_BAD_OBSERVATION (-1) /* an observation is NaN or infinite */
#define ${PREFIX}_BAD_ACTION (-2)      /* an action would be */

typedef struct {
    int option;                              /* in force */
    int steps_left;                          /* that it has; at 0 the next step starts a new one */
    float last_action[${PREFIX}_ACTION_DIM]; /* the last finite one */
$members} ${prefix}_state_t;

extern const char *const ${prefix}_option_names[${PREFIX}_N_OPTIONS];

/* Call it before the first step of each episode. */
void ${prefix}_reset(${prefix}_state_t *state);

/* One control step. Returns the option that was used, or a negative code: then the action is the last finite one
 * (the middle of the bounds, if there was none) and the state is as it was. */
int ${prefix}_step(${prefix}_state_t *state, const float *obs, float *action);
$declaration
#ifdef __cplusplus
}
#endif

#endif
