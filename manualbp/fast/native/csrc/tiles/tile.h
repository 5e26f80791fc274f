// One tile of rows through all layers, up and down, in the memory of one thread.
//
//     up      a_l = f(h W^T + b)                      LayerNorm:  a = xhat gamma + beta
//     down    delta <- delta f'
//             dC/db += sum_n delta,  dC/dW += delta^T h,  dC/dh = delta W
#pragma once
#include <vector>

#include "tiles/activations.h"
#include "tiles/net.h"

namespace manualbp {

// What every thread reads: the parameters, each W^T in panels, and which gradients are wanted.
struct Weights {
  // Without `goes_up` there are no panels, which only the way up reads.
  Weights(const Net& net, const std::vector<bool>& wants, bool goes_up);

  struct OfLayer {
    const float *weight = nullptr, *bias = nullptr, *panels = nullptr;  // W, b, W^T in panels
    const Sweeps* f = nullptr;
    bool wants_weight = false, wants_bias = false, wants_h = false;
    bool wants() const { return wants_weight || wants_bias || wants_h; }
  };
  const Net& net;
  std::vector<OfLayer> layers;
  int64_t rows;  // of a tile

 private:
  std::vector<at::Tensor> held_;  // what the pointers point into
};

// What the way down reads of a layer: its input h is the output of the layer below.
struct Kept {
  float* a = nullptr;     // (rows, O)
  float* kept = nullptr;  // what f' is computed from, or xhat; may be a
  float* r = nullptr;     // (rows,) 1 / sqrt(var + eps) of LayerNorm
};

// Where the gradients of parameter i are added: matrices in float, vectors in double, since a sum
// of many tiles in float would round worse than autograd's.
struct Into {
  std::vector<float*> matrices;
  std::vector<double*> vectors;
  bool first = true;  // matrices are set, not added to
};

// total_c += sum_n values_nc, four rows at a time in float.
void sum_rows(const float* values, int64_t rows, int64_t columns, double* total);

class Tile {
 public:
  // memory: as many floats as `numbers` says. `trains`: whether `down` will be called.
  Tile(const Weights& by, bool trains, float* memory);
  static int64_t numbers(const Weights& by, bool trains);

  // o of x (rows, I). Where the layers' `kept` were set to other memory, it fills that.
  float* up(const float* x, int64_t rows);

  // From dC/do in `delta()`: adds every dC/dtheta to `into`. dC/dx goes to grad_x unless that is
  // nullptr.
  void down(const float* x, int64_t rows, const Into& into, float* grad_x);

  float* delta() { return delta_[0]; }
  std::vector<Kept> layers;

 private:
  void norm_up(const Layer& layer, size_t l, const float* h, int64_t rows);
  void norm_down(const Layer& layer, size_t l, float* delta, int64_t rows, const Into& into,
                 float* below);

  const Weights& by_;
  float* delta_[2] = {};     // dC/da of the layer at hand, and of the one below
  float* turned_ = nullptr;  // delta^T of wide layers, delta xhat of norms
};

}  // namespace manualbp
