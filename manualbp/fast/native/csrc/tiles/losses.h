// C(o, y) and dC/do of some rows: the formulas of manualbp/maths/losses.py and cross_entropy.py.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

namespace manualbp {

// A loss as a user chose it.
struct Loss {
  std::string name;  // mse, l1, huber, smooth_l1, bce_with_logits, cross_entropy
  bool mean = true;  // else the sum
  double p = 0;      // Huber's delta, SmoothL1's beta, cross-entropy's label smoothing
  int64_t ignore_index = -100;
  std::optional<at::Tensor> weight, pos_weight;  // (O,), or one number
};

// The loss of a whole batch, C = sum of all errors / count, to be computed some rows at a time.
//
// So dC/do of a row needs `count` of the whole batch: it is found in the constructor. For class
// indices it is the sum of the weights w_y of all rows that are not ignored.
class Errors {
 public:
  // y: like o (N, O), or class indices (N,). Throws IndexError for a class that does not exist.
  Errors(const Loss& loss, const at::Tensor& y, int64_t rows, int64_t columns);

  // The sum of the errors of these rows, whose outputs lie at `o`, and their dC/do in `delta`
  // unless that is nullptr.
  double of_rows(int64_t first, int64_t rows, const float* o, float* delta) const;

  // Over how much the mean is taken; 1 for a sum.
  double count = 1;

 private:
  template <typename Error>
  double elementwise(int64_t first, int64_t rows, const float* o, float* delta) const;
  double cross_entropy(int64_t first, int64_t rows, const float* o, float* delta) const;
  void count_classes(const Loss& loss, int64_t rows);

  std::string name_;
  at::Tensor y_, weight_, pos_weight_;  // contiguous, and held for the pointers
  const float *values_ = nullptr, *w_ = nullptr, *positive_ = nullptr;  // y, weight, pos_weight
  const int64_t* classes_ = nullptr;                                    // y as class indices
  int64_t columns_, ignore_index_;
  double p_;
  float scale_ = 1;  // 1 / count
};

}  // namespace manualbp
