/* HalfCheetah-v5 in C alone: MuJoCo's simulation, and the exported agent that acts in it. main half_cheetah.xml */
#include <mujoco/mujoco.h>
#include <stdio.h>

#include "asym_policy.h"

enum { FRAME_SKIP = 5, N_STEPS = 1000 };

/* As Gymnasium: all positions but the first, which is how far it has come; then all velocities. */
static void observe(const mjModel *model, const mjData *data, float *obs)
{
    for (int i = 1; i < model->nq; i++)
        *obs++ = (float)data->qpos[i];
    for (int i = 0; i < model->nv; i++)
        *obs++ = (float)data->qvel[i];
}

/* Holds the action for FRAME_SKIP steps of the simulation; returns the reward. */
static double simulate(const mjModel *model, mjData *data, const float *action)
{
    double start = data->qpos[0], control_cost = 0.0;
    for (int i = 0; i < model->nu; i++) {
        data->ctrl[i] = action[i];
        control_cost += 0.1 * action[i] * action[i];
    }
    for (int i = 0; i < FRAME_SKIP; i++)
        mj_step(model, data);
    return (data->qpos[0] - start) / (model->opt.timestep * FRAME_SKIP) - control_cost;
}

int main(int argc, char **argv)
{
    char error[1000] = "the path of half_cheetah.xml is missing";
    mjModel *model = argc == 2 ? mj_loadXML(argv[1], NULL, error, sizeof error) : NULL;
    if (!model) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    if (model->nq - 1 + model->nv != ASYM_OBS_DIM || model->nu != ASYM_ACTION_DIM) {
        fprintf(stderr, "the agent was trained in another env\n");
        return 1;
    }
    mjData *data = mj_makeData(model);
    mj_forward(model, data);

    asym_state_t state;
    float obs[ASYM_OBS_DIM], action[ASYM_ACTION_DIM];
    int uses[ASYM_N_OPTIONS] = {0};
    double total = 0.0;
    asym_reset(&state); /* an episode starts */
    for (int step = 0; step < N_STEPS; step++) {
        observe(model, data, obs);
        int option = asym_step(&state, obs, action);
        if (option < 0)
            printf("step %d: code %d, the last action is held\n", step, option);
        else
            uses[option]++;
        total += simulate(model, data, action);
    }
    printf("return %.3f in %d steps\n", total, N_STEPS);
    for (int i = 0; i < ASYM_N_OPTIONS; i++)
        printf("%s: %.1f%% of the steps\n", asym_option_names[i], 100.0 * uses[i] / N_STEPS);
    mj_deleteData(data);
    mj_deleteModel(model);
    return 0;
}
