// Which derivatives go up beside the value: K lines through each point, and P second derivatives.
//
//     pairs (k, m) of lines     q_p = z'_k z'_m
//     laplacian, P = 1          q = sum_k z'_k^2
//
// A jet of n numbers is (1 + K + P) n: the values, then each z'_k, then each z''_p. Made in Python,
// by manualbp/maths/order.py.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace manualbp {

struct Order {
  int64_t seconds() const { return static_cast<int64_t>(squares.size()); }
  int64_t rows() const { return 1 + lines + seconds(); }  // of a product, for each point

  int64_t lines = 0;  // K
  std::vector<std::vector<std::pair<int64_t, int64_t>>>
      squares;                   // the (k, m) whose z'_k z'_m q_p adds up
  std::vector<int64_t> columns;  // what is returned: of each column which second derivative it is
  std::vector<int64_t> shape;    // of these columns
};

}  // namespace manualbp
