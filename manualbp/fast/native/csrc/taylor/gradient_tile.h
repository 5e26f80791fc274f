// One tile of points through all layers, for u and du/dx of a chain with few outputs O.
//
//     up      z = h W^T + b,  a = f(z)
//     down    d = e_o at the top;   e = f' d,   d of the layer below = e W;   du_o/dx at the bottom
//     up      v = dC/d(du_o/dx) at the bottom;   z' = v W^T,   dC/dW += e^T v,
//             brought = f'' d z',   v of the layer above = f' z'
//     down    g = dC/du at the top;   dC/dz = f' g + brought,   then as usual
//
// The equations are those of manualbp/maths/input_gradient.py: 3 + 3 O products a layer.
#pragma once
#include <vector>

#include "taylor/jet_sweeps.h"
#include "tiles/tile.h"

namespace manualbp {

// What an activation does here. z is what f' is computed from: z, or a.
struct GradientSweeps {
  // e = f' d
  void (*slope)(const float* z, const float* d, float* e, int64_t n, double p, double q);
  // e = f' d,  brought += f'' d z',  v = f' z' over z'
  void (*tangent)(const float* z, const float* d, float* v, float* e, float* brought, int64_t n,
                  double p, double q);
  // g = f' g + brought, and a. Each may be nullptr.
  void (*down)(const float* z, float* g, const float* brought, float* a, int64_t n, double p,
               double q);
};

const GradientSweeps& gradient_activation(const std::string& name);

class GradientTile {
 public:
  // memory: as many floats as `numbers` says. `own`: whether what `layers` point to lies there,
  // else the caller sets them. `trains`: whether `down` will be called.
  GradientTile(const Weights& by, int64_t points, bool own, bool trains, float* memory);
  static int64_t numbers(const Weights& by, int64_t points, bool own, bool trains);
  static std::vector<int64_t> numbers_of_layer(const Net& net);  // of `layers`, for a point
  static int64_t points(const Net& net);  // so that its memory stays in a core's cache

  // u (count, O) of x (count, I); du goes to `du` if wanted. What `down` reads goes to `layers`.
  const float* up(const float* x, int64_t count, bool wants_du);

  // From dC/du in `delta()`, and where `reads_du` dC/d(du/dx) in `du`: adds every dC/dtheta to
  // `into`. dC/dx goes to grad_x unless that is nullptr.
  void down(const float* x, int64_t count, bool reads_du, Into into, float* grad_x);

  float* delta() { return delta_[0]; }
  float* du;                   // (O, count, I)
  std::vector<float*> layers;  // of each: z, then the d of every output

 private:
  const float* d(size_t l, int64_t output, int64_t count) const {
    return layers[l] + (1 + output) * count * by_.net.layers[l].outputs;
  }
  void tangents(int64_t count, int64_t output, const Into& into);
  const float* lower(size_t l, int64_t count, float* g, bool brought, bool wants_a);

  const Weights& by_;
  const Order none_{};             // no lines
  std::vector<JetSweeps> values_;  // of each layer, for the way up
  std::vector<GradientSweeps> f_;  // and for all the others
  float* h_ = nullptr;             // a of the layer at hand
  float* e_ = nullptr;
  float* v_[2] = {};
  float* delta_[2] = {};
  float* turned_ = nullptr;      // a transpose, of wide layers
  std::vector<float*> brought_;  // of each layer
};

}  // namespace manualbp
