// a, f', f'' and f''' at a point: the formulas of manualbp/maths/activations.
//
// They are computed from z, or from a where f' is (Activation::keeps_a in tiles/activations.h).
// p and q are the numbers of an activation, as there.
#pragma once
#include "tiles/activations.h"

namespace manualbp {

struct Slopes {
  Vec a, first, second, third;
};

// f' = 1
inline Slopes slopes(Identity, const Vec& a, const Parameters&) {
  return {a, number(1), number(0), number(0)};
}

// f' = 1 where a > 0, else 0
inline Slopes slopes(ReLU, const Vec& a, const Parameters&) {
  return {a, where(a > number(0), number(1), number(0)), number(0), number(0)};
}

// f' = 1 where p < a < q, else 0
inline Slopes slopes(Hardtanh, const Vec& a, const Parameters& by) {
  return {a, where((a > by.p) & (a < by.q), number(1), number(0)), number(0), number(0)};
}

// f' = 1 where z > 0, else p
inline Slopes slopes(LeakyReLU, const Vec& z, const Parameters& by) {
  Vec slope;
  const Vec a = LeakyReLU::up(z, slope, by);
  return {a, slope, number(0), number(0)};
}

// f' = 1 - a^2,  f'' = -2 a f',  f''' = f' (6 a^2 - 2)
inline Slopes slopes(Tanh, const Vec& a, const Parameters&) {
  const Vec square = a * a, first = number(1) - square;
  return {a, first, number(-2) * a * first, first * (number(6) * square - number(2))};
}

// f' = (1 - a) a,  f'' = f' (1 - 2 a),  f''' = f' (1 - 6 f')
inline Slopes slopes(Sigmoid, const Vec& a, const Parameters&) {
  const Vec one = number(1), first = (one - a) * a;
  return {a, first, first * (one - number(2) * a), first * (one - number(6) * first)};
}

// f' = q where z > 0, else q p e^z;  f'' = f''' = q p e^z where z < 0, else 0
inline Slopes slopes(ELU, const Vec& z, const Parameters& by) {
  Vec first;
  const Vec a = ELU::up(z, first, by);
  const Vec second = where(z < number(0), first, number(0));
  return {a, first, second, second};
}

// f' = s (1 + z (1 - s)),  f'' = s (1 - s) (2 + z (1 - 2 s)),
// f''' = s (1 - s) (3 (1 - 2 s) + z (1 - 6 s (1 - s)))
inline Slopes slopes(SiLU, const Vec& z, const Parameters&) {
  const Vec one = number(1), s = logistic(z), rest = s * (one - s), tilt = one - number(2) * s;
  return {z * s, s * (one + z * (one - s)), rest * (number(2) + z * tilt),
          rest * (number(3) * tilt + z * (one - number(6) * rest))};
}

// f' = s = 1 / (1 + e^(-p z)),  f'' = p s (1 - s),  f''' = p^2 s (1 - s) (1 - 2 s);
// linear where p z > q
inline Slopes slopes(Softplus, const Vec& z, const Parameters& by) {
  Vec first;
  const Vec a = Softplus::up(z, first, by), one = number(1);
  const Vec second = where(z * by.p < by.q, by.p * first * (one - first), number(0));
  return {a, first, second, by.p * (one - number(2) * first) * second};
}

// f' = Phi + z phi,  f'' = (2 - z^2) phi,  f''' = z (z^2 - 4) phi
inline Slopes slopes(GELU, const Vec& z, const Parameters&) {
  const Vec square = z * z;
  const Vec phi = (number(-0.5) * square).exp() * number(0.3989422804014327);
  const Vec below = number(0.5) * (number(1) + (z * number(0.7071067811865476)).erf());
  return {z * below, below + z * phi, (number(2) - square) * phi, z * (square - number(4)) * phi};
}

// f' = (1 + t) / 2 + z t' / 2,  f'' = t' + z t'' / 2,  f''' = 3 t'' / 2 + z t''' / 2
// t' = (1 - t^2) u',  t'' = (1 - t^2) (u'' - 2 t u'^2),
// t''' = (1 - t^2) (u''' - 6 t u' u'' + (6 t^2 - 2) u'^3)
inline Slopes slopes(GELUTanh, const Vec& given, const Parameters&) {
  const Vec one = number(1), half = number(0.5), k = number(0.7978845608028654);
  const Vec c = number(0.044715);
  const Vec z = at::vec::clamp(given, number(-30), number(30));  // t is -1 or 1 from there on
  const Vec t = tanh(k * (z + c * z * z * z)), rest = one - t * t;
  const Vec du = k * (one + number(3) * c * z * z), ddu = number(6) * k * c * z;
  const Vec t1 = rest * du, t2 = rest * (ddu - number(2) * t * du * du);
  const Vec t3 = rest * (number(6) * k * c - number(6) * t * du * ddu +
                         (number(6) * t * t - number(2)) * du * du * du);
  return {half * given * (one + t), half * (one + t) + half * z * t1, t1 + half * z * t2,
          number(1.5) * t2 + half * z * t3};
}

}  // namespace manualbp
