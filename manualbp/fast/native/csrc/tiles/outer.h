// C = G^T H, the sum of the outer products of rows: dC/dW of delta and h.
#pragma once
#include <cstdint>

namespace manualbp {

// C (O, I) of G (R, O) and H (R, I), all row-major and dense; added to C where `add`. turned:
// memory for G^T, which wide products go through.
void outer_products(int64_t R, int64_t O, int64_t I, const float* G, const float* H, float* turned,
                    float* C, bool add);

}  // namespace manualbp
