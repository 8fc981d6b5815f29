static float from_half(uint16_t half)
{
    union { uint32_t bits; float value; } x;
    x.bits = (uint32_t)(half & 0x7fffu) << 13;
    x.value *= 5.192296858534828e33f; /* 2^112: the exponents' offset */
    x.bits |= (uint32_t)(half & 0x8000u) << 16;
    return x.value;
}

/* y = w x + b in float32, of weights that are kept as float16. */
static void dense_fp16(const uint16_t *w, const uint16_t *b, int n_in, int n_out, const float *restrict x, float *restrict y)
{
    for (int j = 0; j < n_out; j++)
        y[j] = from_half(b[j]);
    for (int i = 0; i < n_in; i++, w += n_out)
        for (int j = 0; j < n_out; j++)
            y[j] += from_half(w[j]) * x[i];
}
