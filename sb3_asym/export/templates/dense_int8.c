/* q = round(clip(gain x + zero, 0, greatest)); there is one gain and zero for all, or (stride 1) one for each. */
static void quantize(const float *gain, const float *zero, int stride, float greatest, int n, const float *restrict x,
                     uint8_t *restrict q)
{
    for (int i = 0; i < n; i++) {
        float v = x[i] * gain[i * stride] + zero[i * stride];
        v = v < 0.0f ? 0.0f : v > greatest ? greatest : v;
        q[i] = (uint8_t)(v + 0.5f);
    }
}

/* y = unit ratio (w q) + b, with sums in int32. */
static void dense_int8(const int8_t *w, float unit, const uint16_t *ratio, const float *b, int n_in, int n_out,
                       const uint8_t *restrict q, float *restrict y)
{
    for (int j = 0; j < n_out; j++, w += n_in) {
        int32_t sum = 0;
        for (int i = 0; i < n_in; i++)
            sum += (int32_t)w[i] * q[i];
        y[j] = unit * (float)ratio[j] * (float)sum + b[j];
    }
}
