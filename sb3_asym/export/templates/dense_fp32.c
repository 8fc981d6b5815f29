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
