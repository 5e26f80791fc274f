// C = A B, in blocks that fit the caches, by PyTorch's brgemm: oneDNN's kernels.
#pragma once
#include <cstdint>

namespace manualbp {

// Columns of a panel, and terms of a sum that are added up in one go: a longer sum is made of such
// parts, one after the other, since it would round worse in one.
constexpr int64_t kColumns = 64, kTerms = 256;

// C (M, N) = A (M, K) B (K, N), row-major, with rows ld apart; added to C where `add`.
void product(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B,
             int64_t ldb, float* C, int64_t ldc, bool add);

// (R, C) from X (C, R): X's rows are ld apart, the result's ldt.
void transposed(const float* X, int64_t C, int64_t R, int64_t ld, float* result, int64_t ldt);

// W^T (I, O) of W (O, I), in panels of kColumns columns, each row-major, one after the other.
void pack(const float* W, int64_t O, int64_t I, float* panels);

// C (M, O) = A (M, I) times such panels; added to C where `add`.
void product_of_panels(int64_t M, int64_t O, int64_t I, const float* A, const float* panels,
                       float* C, bool add);

}  // namespace manualbp
