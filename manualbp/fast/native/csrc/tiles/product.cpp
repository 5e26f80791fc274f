#include "tiles/product.h"

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>

namespace manualbp {

void product(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B,
             int64_t ldb, float* C, int64_t ldc, bool add) {
  for (int64_t k = 0; k < K; k += kTerms) {
    at::native::cpublas::brgemm(M, N, std::min(kTerms, K - k), lda, ldb, ldc, add || k > 0, A + k,
                                B + k * ldb, C);
  }
}

void transposed(const float* X, int64_t C, int64_t R, int64_t ld, float* result, int64_t ldt) {
#ifdef CPU_CAPABILITY_AVX512
  at::vec::transpose_mxn<float>(X, ld, result, ldt, static_cast<int>(C), static_cast<int>(R));
#else
  constexpr int64_t step = 8;  // numbers of a block's row, so that a block stays in the first cache
  for (int64_t c = 0; c < C; c += step) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t i = c; i < std::min(c + step, C); ++i) result[r * ldt + i] = X[i * ld + r];
    }
  }
#endif
}

void pack(const float* W, int64_t O, int64_t I, float* panels) {
  const int64_t count = (O + kColumns - 1) / kColumns;
  const int64_t worth = std::max<int64_t>((1 << 16) / (kColumns * I), 1);  // panels for a thread
  at::parallel_for(0, count, worth, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin * kColumns; o < std::min(end * kColumns, O); o += kColumns) {
      const int64_t columns = std::min(kColumns, O - o);
      transposed(W + o * I, columns, I, I, panels + o * I, columns);
    }
  });
}

void product_of_panels(int64_t M, int64_t O, int64_t I, const float* A, const float* panels,
                       float* C, bool add) {
  for (int64_t o = 0; o < O; o += kColumns) {
    const int64_t columns = std::min(kColumns, O - o);
    product(M, columns, I, A, I, panels + o * I, columns, C + o, O, add);
  }
}

}  // namespace manualbp
