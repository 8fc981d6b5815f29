/* Made by sb3-asym 0.1.0; see asym_policy.h. */
#include "asym_policy.h"

#include <math.h>
#include <stdint.h>

static const float w0_0[12] = {
    -0.00155319844f, -0.420280665f, -0.011427694f, 0.149972603f, 0.31090185f, -0.219233021f, 0.451835364f,
    -0.176667422f, -0.467705339f, 0.14826715f, -0.0488714725f, -0.119017616f
};
static const float b0_0[4] = {
    -0.558936238f, -0.388646603f, -0.244387567f, 0.0259135514f
};
static const float w0_1[4] = {
    0.194306016f, 0.292900175f, -0.341661066f, -0.219549283f
};
static const float b0_1[1] = {
    0.175326079f
};
static const float w1_0[24] = {
    0.516980112f, -0.148331061f, -0.376351565f, -0.541087329f, 0.256849974f, -0.296340048f, -0.414856046f, 0.335137129f,
    -0.531664491f, -0.222938582f, -0.26434046f, -0.340910017f, 0.278869182f, 0.0987266377f, -0.294311643f,
    -0.252825767f, -0.359925032f, 0.490162998f, -0.398516268f, 0.505185425f, 0.0381137729f, -0.534118474f, 0.355214775f,
    -0.0177039914f
};
static const float b1_0[8] = {
    0.361095339f, 0.564499378f, 0.223763958f, 0.087148279f, 0.397216856f, -0.345234841f, 0.0983129218f, -0.450906098f
};
static const float w1_1[8] = {
    -0.241692483f, -0.186259732f, 0.162086606f, 0.138396859f, -0.210916281f, 0.109324895f, 0.190330774f, -0.0435970575f
};
static const float b1_1[1] = {
    0.0117671378f
};
static const float w2_0[12] = {
    -0.539945304f, -0.507060766f, -0.0651746318f, -0.398038775f, 0.118233018f, 0.498854339f, 0.165912762f, -0.45789662f,
    -0.329013079f, -0.384023905f, 0.0188990533f, 0.45212698f
};
static const float b2_0[4] = {
    0.100225873f, 0.48856321f, -0.193045601f, 0.160860419f
};
static const float w2_1[8] = {
    -0.121881619f, 0.154169485f, -0.0307709239f, -0.0142983403f, -0.305027723f, -0.112451077f, 0.161002249f,
    -0.308214903f
};
static const float b2_1[2] = {
    0.334312558f, -0.376237422f
};
static const float action_low[1] = {
    -2.0f
};
static const float action_high[1] = {
    2.0f
};
static const float action_rest[1] = {
    0.0f
};
const char *const asym_option_names[ASYM_N_OPTIONS] = {"small", "large"};

/* y = w x + b; the weights of an input lie together, so that compilers make vectors of the outputs. */
static void dense_fp32(const float *w, const float *b, int n_in, int n_out, const float *restrict x, float *restrict y)
{
    int i = 0;
    for (int j = 0; j < n_out; j++)
        y[j] = b[j];
    for (; i + 3 < n_in; i += 4, w += 4 * n_out)
        for (int j = 0; j < n_out; j++)
            y[j] += (w[j] * x[i] + w[j + n_out] * x[i + 1]) + (w[j + 2 * n_out] * x[i + 2] + w[j + 3 * n_out] * x[i + 3]);
    for (int rest = n_in % 4; rest > 0; rest--, i++, w += n_out)
        for (int j = 0; j < n_out; j++)
            y[j] += w[j] * x[i];
}

static void activate_0(float *y, int n)
{
    for (int i = 0; i < n; i++) {
        float x = y[i];
        y[i] = x < 0.0f ? 0.0f : x;
    }
}

static void activate_1(float *y, int n)
{
    for (int i = 0; i < n; i++) {
        float x = y[i];
        y[i] = tanhf(x);
    }
}

static int argmax(const float *values, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = values[i] > values[best] ? i : best;
    return best;
}

/* small 3-4-1 (fp32, 84 bytes) */
static void network_0(const float *x, float *y)
{
    float h[1][4];
    dense_fp32(w0_0, b0_0, 3, 4, x, h[0]);
    activate_0(h[0], 4);
    dense_fp32(w0_1, b0_1, 4, 1, h[0], y);
    activate_1(y, 1);
}

/* large 3-8-1 (fp32, 164 bytes) */
static void network_1(const float *x, float *y)
{
    float h[1][8];
    dense_fp32(w1_0, b1_0, 3, 8, x, h[0]);
    activate_0(h[0], 8);
    dense_fp32(w1_1, b1_1, 8, 1, h[0], y);
    activate_1(y, 1);
}

/* master 3-4-2 (fp32, 104 bytes) */
static void network_2(const float *x, float *y)
{
    float h[1][4];
    dense_fp32(w2_0, b2_0, 3, 4, x, h[0]);
    activate_0(h[0], 4);
    dense_fp32(w2_1, b2_1, 4, 2, h[0], y);
}

static int all_finite(const float *values, int n)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return 0;
    return 1;
}

static int hold(const asym_state_t *state, float *action, int code)
{
    for (int i = 0; i < ASYM_ACTION_DIM; i++)
        action[i] = state->last_action[i];
    return code;
}

void asym_reset(asym_state_t *state)
{
    state->option = 0;
    state->steps_left = 0;
    for (int i = 0; i < ASYM_ACTION_DIM; i++)
        state->last_action[i] = action_rest[i];
}

int asym_step(asym_state_t *state, const float *obs, float *action)
{
    float y[2];
    int option = state->option;
    int steps_left = state->steps_left;
    if (!all_finite(obs, ASYM_OBS_DIM))
        return hold(state, action, ASYM_BAD_OBSERVATION);
    if (steps_left <= 0) {
        network_2(obs, y);
        option = argmax(y, ASYM_N_OPTIONS);
        steps_left = ASYM_OPTION_LENGTH;
    }
    if (option == 0)
        network_0(obs, y);
    else
        network_1(obs, y);
    if (!all_finite(y, 1))
        return hold(state, action, ASYM_BAD_ACTION);
    for (int i = 0; i < ASYM_ACTION_DIM; i++) {
        float v = action_low[i] + 0.5f * (y[i] + 1.0f) * (action_high[i] - action_low[i]);
        v = v < action_low[i] ? action_low[i] : v > action_high[i] ? action_high[i] : v;
        state->last_action[i] = v;
    }
    state->option = option;
    state->steps_left = steps_left - 1;
    return hold(state, action, option);
}
