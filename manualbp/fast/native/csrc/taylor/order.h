// Which derivatives go up beside the value: K lines through each point, and P second derivatives.
//
//     laplacian    P = 1              q = sum_k z'_k^2
//     diagonal     P = K              q_k = z'_k^2
//     hessian      P = K (K + 1) / 2  q_km = z'_k z'_m,  k <= m
//
// A jet of n numbers is (1 + K + P) n: the values, then each z'_k, then each z''_p.
#pragma once
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace manualbp {

struct Order {
  Order(const std::string& second, int64_t k) : lines(k) {
    if (second == "laplacian") {
      squares.emplace_back();
      for (int64_t i = 0; i < k; ++i) squares[0].emplace_back(i, i);
    } else if (second == "diagonal") {
      for (int64_t i = 0; i < k; ++i) squares.push_back({{i, i}});
    } else if (second == "hessian") {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = i; j < k; ++j) squares.push_back({{i, j}});
      }
    } else {
      TORCH_CHECK(second.empty(), "unknown second derivatives: ", second);
    }
  }

  int64_t seconds() const { return static_cast<int64_t>(squares.size()); }
  int64_t rows() const { return 1 + lines + seconds(); }  // of a product, for each point

  int64_t lines;  // K
  std::vector<std::vector<std::pair<int64_t, int64_t>>>
      squares;  // the (k, m) whose z'_k z'_m q_p adds up
};

}  // namespace manualbp
