// C(o, y) and dC/do of some rows: the formulas of manualbp/maths/losses.py and cross_entropy.py.
#pragma once
#include <ATen/core/Tensor.h>

#include "exact/cost.h"

namespace manualbp {

// The loss of a whole batch, C = sum of all errors / count, to be computed some rows at a time.
//
// So dC/do of a row needs `count` of the whole batch: it is found in the constructor. For class
// indices it is the sum of the weights w_y of all rows that are not ignored.
class BatchLoss {
 public:
  // y: like o (N, O), or class indices (N,). Throws IndexError for a class that does not exist.
  BatchLoss(const exact::Loss& loss, const at::Tensor& y, int64_t rows, int64_t columns);

  // The sum of the errors of these rows, whose outputs lie at `o`, and their dC/do in `delta`
  // unless that is nullptr.
  double of_rows(int64_t first, int64_t rows, const float* o, float* delta) const;

  // Over how much the mean is taken; 1 for a sum.
  double count = 1;

 private:
  template <typename Error>
  double elementwise(int64_t first, int64_t rows, const float* o, float* delta) const;
  double cross_entropy(int64_t first, int64_t rows, const float* o, float* delta) const;
  void count_classes(bool mean, int64_t rows);

  exact::Errors kind_;
  at::Tensor y_, weight_, pos_weight_;  // contiguous, and held for the pointers
  const float *values_ = nullptr, *w_ = nullptr, *positive_ = nullptr;  // y, weight, pos_weight
  const int64_t* classes_ = nullptr;                                    // y as class indices
  int64_t columns_, ignore_index_;
  double p_;
  float scale_ = 1;  // 1 / count
};

}  // namespace manualbp
