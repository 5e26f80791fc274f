// One tile of points with their derivatives through all layers, up and down, in one thread's
// memory.
//
//     up      z = h W^T + b,   z'_k = h'_k W^T,   z''_p = h''_p W^T        one product for all
//     down    dC/dW += g^T h + sum_k g'_k^T h'_k + sum_p g''_p^T h''_p     one product for all
//             dC/db += sum_n g,   dC/dh = g W  and so on                   one product for all
//
// and jet_sweeps.h between the products. The equations are those of manualbp/maths/taylor.py.
#pragma once
#include <vector>

#include "taylor/jet_sweeps.h"
#include "taylor/order.h"
#include "tiles/tile.h"

namespace manualbp {

// What every thread reads. lines: v (K, I), the same through all points, or (N, K, I).
struct JetNet {
  JetNet(const Weights& weights, const Order& order, const at::Tensor& lines);

  // Rows of a product for each point, in layer l and above it: those of z'' only behind the first
  // activation, where they are no longer zero.
  int64_t rows_of_z(size_t l) const { return curved[l] ? order.rows() : 1 + order.lines; }
  std::vector<int64_t> numbers_of_z() const;  // of each layer, for a point
  int64_t points() const;  // of a tile, so that its memory stays in a core's cache
  int64_t work() const;    // multiplications of the way up and down, for each point

  const Weights& by;
  const Order& order;
  bool shared;               // the lines
  std::vector<bool> curved;  // whether z'' of layer l is not zero; and of the output, at last
  std::vector<JetSweeps> f;  // of each layer
  at::Tensor lines, slopes;  // v; and where they are shared and go up, v_k W^T of the first layer
};

class JetTile {
 public:
  // memory: as many floats as `numbers` says. `own`: whether z lies there, else the caller sets it.
  // `trains`: whether `down` will be called.
  JetTile(const JetNet& net, int64_t points, bool own, bool trains, float* memory);
  static int64_t numbers(const JetNet& net, int64_t points, bool own, bool trains);

  // The jet of o of `count` points, from row `at` on; nullptr where only `z` is filled.
  const float* up(const float* x, int64_t at, int64_t count, bool to_the_end);

  // From the jet of dC/do in `delta()`: adds every dC/dtheta to `into`. dC/dx goes to grad_x unless
  // that is nullptr.
  void down(const float* x, int64_t at, int64_t count, const Into& into, float* grad_x);

  float* delta() { return delta_[0]; }
  std::vector<float*> z;  // of each layer: what `down` reads

 private:
  void start(const Layer& layer, const float* x, int64_t at, int64_t count);
  int64_t inputs(const float* x, int64_t at, int64_t count, bool each);
  void first_down(float* g, const float* x, int64_t at, int64_t count, const Into& into,
                  float* grad_x);
  // The activation of layer l on the way down: g in place, and a once more in `h_`. Either may not
  // be wanted.
  const float* lower(size_t l, int64_t count, float* g, bool wants_a);

  const JetNet& net_;
  float* h_ = nullptr;       // a of the layer at hand
  float* inputs_ = nullptr;  // x and the lines, one below the other
  float* delta_[2] = {};     // dC/da of the layer at hand, and of the one below
  float* turned_ = nullptr;  // its transpose, of wide layers
};

}  // namespace manualbp
