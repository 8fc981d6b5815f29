// Matrix products as small as those of a policy, for graphs that Inductor compiles: C = A · B in float32.
//
// B goes panel by panel, of a few columns that stay in the fastest cache; a few rows of C stay in registers while A's rows
// and the panel's run along their common dimension (Goto & van de Geijn 2008, "Anatomy of high-performance matrix
// multiplication").
#include <ATen/cpu/vec/vec.h>
#include <algorithm>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace sb3_asym {

using Vector = at::vec::Vectorized<float>;

constexpr int64_t LANES = Vector::size();
constexpr int64_t ROWS = 8;          // of C at once: with two vectors each, 16 independent sums
constexpr int64_t WIDTH = 2 * LANES; // columns of a panel
constexpr int64_t DEPTH = 256;       // rows of a panel
constexpr int64_t FLOPS_PER_THREAD = 4'000'000;

struct Matrix {
  float* data;
  int64_t row, column; // strides

  Matrix at(int64_t i, int64_t j) const {
    return {data + i * row + j * column, row, column};
  }
};

template <int64_t rows, int64_t vectors>
inline void multiply_rows(const Matrix& a, const float* panel, const Matrix& c, int64_t n, int64_t depth, bool add) {
  Vector sums[rows][vectors];
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t v = 0; v < vectors; v++) sums[i][v] = Vector(0.0f);
  }
  for (int64_t k = 0; k < depth; k++) {
    Vector b[vectors];
    for (int64_t v = 0; v < vectors; v++) b[v] = Vector::loadu(panel + k * WIDTH + v * LANES);
    for (int64_t i = 0; i < rows; i++) {
      const Vector x(a.data[i * a.row + k * a.column]);
      for (int64_t v = 0; v < vectors; v++) sums[i][v] = at::vec::fmadd(x, b[v], sums[i][v]);
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t count = std::min(n - v * LANES, LANES);
      float* out = c.data + i * c.row + v * LANES;
      if (add) sums[i][v] = sums[i][v] + Vector::loadu(out, count);
      sums[i][v].store(out, count);
    }
  }
}

template <int64_t vectors>
inline void multiply_panel(
    const Matrix& a, const float* panel, const Matrix& c, int64_t m, int64_t n, int64_t depth, bool add) {
  int64_t i = 0;
  for (; i + ROWS <= m; i += ROWS) multiply_rows<ROWS, vectors>(a.at(i, 0), panel, c.at(i, 0), n, depth, add);
  for (; i < m; i++) multiply_rows<1, vectors>(a.at(i, 0), panel, c.at(i, 0), n, depth, add);
}

// Copies `n` columns of B, zeros beside them: a panel is read in whole vectors.
inline void pack(const Matrix& b, float* panel, int64_t n, int64_t depth) {
  if (b.column == 1) {
    for (int64_t k = 0; k < depth; k++) {
      for (int64_t j = 0; j < n; j += LANES) {
        Vector::loadu(b.data + k * b.row + j, std::min(n - j, LANES)).store(panel + k * WIDTH + j);
      }
    }
    return;
  }
  if (n < WIDTH) std::fill(panel, panel + depth * WIDTH, 0.0f);
  if (b.row == 1) {
    at::vec::transpose_mxn<float>(b.data, b.column, panel, WIDTH, n, depth);
    return;
  }
  for (int64_t k = 0; k < depth; k++) {
    for (int64_t j = 0; j < n; j++) panel[k * WIDTH + j] = b.data[k * b.row + j * b.column];
  }
}

inline void multiply(const Matrix& a, const Matrix& b, const Matrix& c, int64_t m, int64_t n, int64_t depth) {
  alignas(64) float panel[DEPTH * WIDTH];
  int64_t k = 0;
  do { // once also if there is nothing to sum: C becomes zero
    const int64_t panel_depth = std::min(DEPTH, depth - k);
    for (int64_t j = 0; j < n; j += WIDTH) {
      const int64_t width = std::min(WIDTH, n - j);
      pack(b.at(k, j), panel, width, panel_depth);
      const auto multiply_by = width > LANES ? multiply_panel<2> : multiply_panel<1>;
      multiply_by(a.at(0, k), panel, c.at(0, j), m, width, panel_depth, k > 0);
    }
    k += DEPTH;
  } while (k < depth);
}

// How many threads a product is worth.
inline int64_t threads_for(int64_t flops) {
#ifdef _OPENMP
  return std::clamp<int64_t>(flops / FLOPS_PER_THREAD, 1, omp_get_max_threads());
#else
  return 1;
#endif
}

} // namespace sb3_asym

// As torch's own functions that the graph calls: `out` (…, m, n), contiguous; `a` (…, m, k) and `b` (…, k, n), any strides.
inline AOTITorchError aoti_torch_sb3_asym_matmul_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b) {
  void *out_data, *a_data, *b_data;
  int64_t dim, *sizes, *a_sizes, *a_strides, *b_strides;
  aoti_torch_get_data_ptr(out, &out_data);
  aoti_torch_get_data_ptr(a, &a_data);
  aoti_torch_get_data_ptr(b, &b_data);
  aoti_torch_get_dim(out, &dim);
  aoti_torch_get_sizes(out, &sizes);
  aoti_torch_get_sizes(a, &a_sizes);
  aoti_torch_get_strides(a, &a_strides);
  aoti_torch_get_strides(b, &b_strides);
  const int64_t m = sizes[dim - 2], n = sizes[dim - 1], depth = a_sizes[dim - 1], products = dim == 3 ? sizes[0] : 1;
  const int64_t threads = sb3_asym::threads_for(2 * products * m * n * depth);
  const int64_t parts = std::max<int64_t>((threads + products - 1) / std::max<int64_t>(products, 1), 1); // of each product
  const int64_t rows = ((m + parts - 1) / parts + sb3_asym::ROWS - 1) / sb3_asym::ROWS * sb3_asym::ROWS;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t part = 0; part < products * parts; part++) {
    const int64_t i = part / parts, first = part % parts * rows;
    if (first >= m) continue;
    sb3_asym::multiply(
        {(float*)a_data + i * a_strides[0] + first * a_strides[dim - 2], a_strides[dim - 2], a_strides[dim - 1]},
        {(float*)b_data + i * b_strides[0], b_strides[dim - 2], b_strides[dim - 1]},
        {(float*)out_data + (i * m + first) * n, n, 1}, std::min(rows, m - first), n, depth);
  }
  return AOTI_TORCH_SUCCESS;
}
