// a = f(z) and delta * f'(z), side by side: the formulas of manualbp/maths/activations.
//
//     up      a = f(z), and what `down` will read: a itself, or f'(z) where f' needs z
//     down    dC/dz = dC/da f',  with 0, infinity and NaN where autograd has them
//
// So z is never kept. p and q are the numbers of an activation that has some: LeakyReLU's slope p;
// ELU's and SELU's alpha p and scale q; Softplus's beta p and threshold q; Hardtanh's least p and
// most q. blendv(no, yes, mask) is yes where mask holds, else no.
#pragma once
#include <string>
#include <unordered_map>

#include "tiles/exponential.h"

namespace manualbp {

struct Parameters {
  Vec p, q;  // each number in all places of a register
};

// s = 1 / (1 + e^-z)
inline Vec logistic(const Vec& z) { return number(1) / (number(1) + z.neg().exp()); }

// f' was kept: dC/dz = delta f'
struct SlopeIsKept {
  static constexpr bool keeps_a = false;
  static Vec down(Vec delta, Vec slope, const Parameters&) { return delta * slope; }
};

// f = z,  f' = 1
struct Identity {
  static constexpr bool keeps_a = true;
  static Vec up(Vec z, Vec&, const Parameters&) { return z; }
  static Vec down(Vec delta, Vec, const Parameters&) { return delta; }
};

// f = max(z, 0),  f' = 1 where a > 0, else 0
struct ReLU {
  static constexpr bool keeps_a = true;
  static Vec up(Vec z, Vec&, const Parameters&) { return at::vec::clamp_min(z, number(0)); }
  static Vec down(Vec delta, Vec a, const Parameters&) {
    return Vec::blendv(delta, number(0), a <= number(0));
  }
};

// f = tanh z,  f' = 1 - a^2
struct Tanh {
  static constexpr bool keeps_a = true;
  static Vec up(Vec z, Vec&, const Parameters&) { return tanh(z); }
  static Vec down(Vec delta, Vec a, const Parameters&) { return delta * (number(1) - a * a); }
};

// f = s,  f' = (1 - a) a
struct Sigmoid {
  static constexpr bool keeps_a = true;
  static Vec up(Vec z, Vec&, const Parameters&) { return logistic(z); }
  static Vec down(Vec delta, Vec a, const Parameters&) { return delta * (number(1) - a) * a; }
};

// f = min(max(z, p), q),  f' = 1 where p < a < q, else 0
struct Hardtanh {
  static constexpr bool keeps_a = true;
  static Vec up(Vec z, Vec&, const Parameters& by) { return at::vec::clamp(z, by.p, by.q); }
  static Vec down(Vec delta, Vec a, const Parameters& by) {
    return Vec::blendv(delta, number(0), (a <= by.p) | (a >= by.q));
  }
};

// f = z where z > 0, else p z,  f' = 1 where z > 0, else p
struct LeakyReLU : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters& by) {
    slope = Vec::blendv(by.p, number(1), z > number(0));
    return z * slope;
  }
};

// f = q z where z > 0, else q p (e^z - 1),  f' = q where z > 0, else q p e^z
struct ELU : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters& by) {
    const auto positive = z > number(0);
    const auto [power, less_one] = exponential(at::vec::clamp_max(z, number(0)));
    slope = Vec::blendv(by.q * by.p * power, by.q, positive);
    return Vec::blendv(by.q * by.p * less_one, by.q * z, positive);
  }
};

// f = z s,  f' = s (1 + z (1 - s))
struct SiLU : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters&) {
    const auto s = logistic(z), one = number(1);
    slope = s * (one + z * (one - s));
    return z / (one + z.neg().exp());
  }
};

// f = log(1 + e^(p z)) / p,  f' = 1 / (1 + e^(-p z));  linear where p z > q
struct Softplus : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters& by) {
    const auto x = z * by.p, e = x.exp(), linear = x > by.q, one = number(1);
    slope = Vec::blendv(e / (e + one), one, linear);
    return Vec::blendv(e.log1p() / by.p, z, linear);
  }
};

// f = z Phi(z),  f' = Phi(z) + z phi(z)
// Phi = (1 + erf(z / sqrt 2)) / 2,  phi = e^(-z^2 / 2) / sqrt(2 pi)
struct GELU : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters&) {
    const auto phi = (number(-0.5) * z * z).exp() * number(0.3989422804014327);
    const auto below = number(0.5) * (number(1) + (z * number(0.7071067811865476)).erf());
    slope = below + z * phi;
    return z * below;
  }
};

// f = z (1 + t) / 2,  f' = (1 + t) / 2 + z (1 - t^2) u' / 2
// t = tanh u,  u = k (z + c z^3),  u' = k (1 + 3 c z^2),  k = sqrt(2 / pi)
struct GELUTanh : SlopeIsKept {
  static Vec up(Vec z, Vec& slope, const Parameters&) {
    const auto one = number(1), half = number(0.5), k = number(0.7978845608028654);
    const auto c = number(0.044715), zz = z * z;
    const auto t = tanh(k * (z + c * zz * z));
    const auto du = k * (one + number(3) * c * zz);
    slope = half * (one + t) + half * z * (one - t * t) * du;
    return half * z * (one + t);
  }
};

// What an activation does to n numbers: an entry of the table.
struct Sweeps {
  void (*up)(float* z, float* kept, int64_t n, double p, double q);              // a over z
  void (*down)(float* delta, const float* kept, int64_t n, double p, double q);  // dC/dz over dC/da
  bool keeps_a;  // whether kept is a
};

// F::up of n numbers. `kept` may be nullptr: then nothing is kept.
template <typename F>
void sweep_up(float* z, float* kept, int64_t n, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(n, [&](int64_t i, int64_t count) {
    Vec slope;
    const auto a = F::up(load(z + i, count), slope, by);
    store(a, z + i, count);
    if constexpr (!F::keeps_a) {
      if (kept) store(slope, kept + i, count);
    }
  });
}

// F::down of n numbers.
template <typename F>
void sweep_down(float* delta, const float* kept, int64_t n, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(n, [&](int64_t i, int64_t count) {
    store(F::down(load(delta + i, count), load(kept + i, count), by), delta + i, count);
  });
}

template <typename F>
constexpr Sweeps sweeps_of() {
  return {&sweep_up<F>, &sweep_down<F>, F::keeps_a};
}

// The table, by the names of manualbp.maths.activations.ACTIVATIONS. make(F()) is F's entry.
template <typename Entry, typename Make>
std::unordered_map<std::string, Entry> table_of(Make make) {
  return {{"identity", make(Identity())},
          {"sigmoid", make(Sigmoid())},
          {"tanh", make(Tanh())},
          {"relu", make(ReLU())},
          {"leaky_relu", make(LeakyReLU())},
          {"elu", make(ELU())},
          {"selu", make(ELU())},
          {"gelu", make(GELU())},
          {"gelu_tanh", make(GELUTanh())},
          {"silu", make(SiLU())},
          {"softplus", make(Softplus())},
          {"hardtanh", make(Hardtanh())}};
}

// nullptr for an unknown one.
const Sweeps* activation(const std::string& name);

}  // namespace manualbp
