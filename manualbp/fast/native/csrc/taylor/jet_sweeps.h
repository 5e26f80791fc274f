// An activation of jets, up and down.
//
//     up      a = f(z),   a'_k = f' z'_k,   a''_p = f' z''_p + f'' q_p
//     down    dC/dz''_p = f' g''_p
//             dC/dz'_k  = f' g'_k + f'' sum_p g''_p dq_p/dz'_k
//             dC/dz     = f' g + f'' (sum_k g'_k z'_k + sum_p g''_p z''_p) + f''' sum_p g''_p q_p
#pragma once
#include <string>

#include "taylor/order.h"

namespace manualbp {

// n numbers, each with its derivatives, as order.h lays them out. Where not `curved`, z'' is zero
// and not looked at.
struct Jets {
  int64_t n;
  const Order& order;
  bool curved;
};

struct JetSweeps {
  // h becomes the jet of a. z stays, but its values become what f' is computed from: z, or a.
  void (*up)(const Jets& jets, float* z, float* h, double p, double q);
  // g becomes dC/dz, dC/dz', dC/dz'' where it was that of a; h becomes the jet of a once more.
  // Either may be nullptr.
  void (*down)(const Jets& jets, const float* z, float* g, float* h, double p, double q);
};

// By the names of manualbp.maths.activations.ACTIVATIONS, for jets of this order.
const JetSweeps& jet_activation(const std::string& name, const Order& order);

}  // namespace manualbp
