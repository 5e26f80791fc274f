// Which derivatives go up beside the value: K lines through each point, and P second derivatives.
//
//     pairs (k, m) of lines     q_p = z'_k z'_m
//     laplacian, P = 1          q = sum_k z'_k^2
//
// A jet of n numbers is (1 + K + P) n: the values, then each z'_k, then each z''_p. Made in Python,
// by manualbp/maths/order.py.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace manualbp {

using Square = std::pair<int64_t, int64_t>;  // z'_k z'_m of a q_p

struct Pull {  // times z'_m, a part of dq_p/dz'_k
  int64_t p, m;
  float times;
};

struct Order {
  Order() = default;
  Order(int64_t K, std::vector<std::vector<Square>> of_q, std::vector<int64_t> returned,
        std::vector<int64_t> their_shape);

  int64_t seconds() const { return static_cast<int64_t>(squares.size()); }
  int64_t rows() const { return 1 + lines + seconds(); }  // of a product, for each point
  bool is_laplacian() const;

  int64_t lines = 0;                         // K
  std::vector<std::vector<Square>> squares;  // of each q_p
  std::vector<std::vector<Pull>> pulls;      // of each z'_k
  std::vector<int64_t> columns;  // what is returned: of each column which second derivative it is
  std::vector<int64_t> shape;    // of these columns
};

// The Laplacian along so many lines that the compiler knows of: what it computes for a number then
// stays in registers.
template <int64_t K>
struct Laplacian {
  static constexpr int64_t lines = K;
  static constexpr int64_t seconds() { return 1; }
  static constexpr auto squares = [] {
    std::array<std::array<Square, K>, 1> all{};
    for (int64_t k = 0; k < K; ++k) all[0][k] = {k, k};
    return all;
  }();
  static constexpr auto pulls = [] {
    std::array<std::array<Pull, 1>, K> all{};
    for (int64_t k = 0; k < K; ++k) all[k][0] = {0, k, 2};
    return all;
  }();
};

inline Order::Order(int64_t K, std::vector<std::vector<Square>> of_q, std::vector<int64_t> returned,
                    std::vector<int64_t> their_shape)
    : lines(K),
      squares(std::move(of_q)),
      pulls(K),
      columns(std::move(returned)),
      shape(std::move(their_shape)) {
  for (int64_t p = 0; p < seconds(); ++p) {
    for (const auto& [k, m] : squares[p]) {
      pulls.at(k).push_back({p, m, k == m ? 2.0f : 1.0f});
      if (k != m) pulls.at(m).push_back({p, k, 1});
    }
  }
}

inline bool Order::is_laplacian() const {
  const auto own = [k = int64_t(0)](const Square& each) mutable { return each == Square(k, k++); };
  return seconds() == 1 && static_cast<int64_t>(squares[0].size()) == lines &&
         std::all_of(squares[0].begin(), squares[0].end(), own);
}

}  // namespace manualbp
