#include "taylor/jet_passes.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "tiles/over_tiles.h"

namespace manualbp {

namespace {

// visit(place in the jet, place in the tensor) for each number of du, or of the second derivatives,
// of a point's output: in order of the tensor. seconds: whose place in the jet is that of (k, m).
template <typename Visit>
void of_output(const std::string& second, int64_t lines, int part, Visit visit) {
  if (part == 1 || second == "diagonal") {
    for (int64_t k = 0; k < lines; ++k) visit(k, k);
  } else if (second == "hessian") {
    int64_t pair = 0;
    for (int64_t k = 0; k < lines; ++k) {
      for (int64_t m = k; m < lines; ++m, ++pair) {
        visit(pair, k * lines + m);
        if (k != m) visit(pair, m * lines + k);
      }
    }
  } else {
    visit(0, 0);
  }
}

int64_t numbers_of(const std::string& second, int64_t lines, int part) {
  int64_t found = 0;
  of_output(second, lines, part, [&](int64_t, int64_t) { ++found; });
  return found;
}

Split split_of(const JetNet& net, int64_t rows, int64_t points, int64_t numbers) {
  const int64_t tile = points ? points : net.points();
  return split(rows, tile, points > 0, rows * net.work(), numbers, net.order.rows());
}

}  // namespace

void KeptJets::take(int64_t numbers, const at::Tensor& x) {
  z.push_back(at::empty({x.size(0) * numbers}, x.options()));
}

void KeptJets::point(std::vector<float*>& layers, int64_t row, int64_t N) const {
  for (size_t l = 0; l < z.size(); ++l) {
    layers[l] = const_cast<float*>(z[l].const_data_ptr<float>()) + row * (z[l].numel() / N);
  }
}

Derived jets_up(const Net& net, const std::string& second, const at::Tensor& lines,
                const at::Tensor& x, bool keeps, KeptJets& kept) {
  const std::vector<bool> nothing(net.parameters.size() + 1, false);
  const Weights by(net, nothing, true);
  const Order order(second, lines.size(-2));
  const JetNet jets(by, order, lines);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs, K = order.lines;
  Derived found{at::empty({N, O}, x.options()), at::empty({N, O, K}, x.options())};
  if (second == "laplacian") found.push_back(at::empty({N, O}, x.options()));
  if (second == "diagonal") found.push_back(at::empty({N, O, K}, x.options()));
  if (second == "hessian") found.push_back(at::empty({N, O, K, K}, x.options()));
  std::vector<float*> to;
  for (auto& each : found) to.push_back(each.mutable_data_ptr<float>());
  for (size_t l = 0; l < net.layers.size() && keeps; ++l) {
    kept.take(jets.rows_of_z(l) * net.layers[l].outputs, x);
  }
  Accumulated nothing_summed(net, nothing, x);
  const Split s = split_of(jets, N, 0, 0);
  kept.points = s.tile;
  const float* data = x.const_data_ptr<float>();
  const auto make = [&](float* memory) { return JetTile(jets, s.tile, false, memory); };
  const int64_t numbers = JetTile::numbers(jets, s.tile, false);
  const bool zero = !jets.curved.back();
  over_tiles(s, nothing_summed, numbers, make,
             [&](JetTile& tile, int64_t row, int64_t rows, auto&) {
               kept.point(tile.z, row, N);
               const float* o = tile.up(data + row * I, row, rows, true);
               const int64_t n = rows * O;
               std::copy(o, o + n, to[0] + row * O);
               for (int part = 1; part < static_cast<int>(to.size()); ++part) {
                 const int64_t each = numbers_of(second, K, part), first = part == 1 ? 1 : 1 + K;
                 float* into = to[part] + row * O * each;
                 of_output(second, K, part, [&](int64_t from, int64_t at) {
                   const float* source = o + (first + from) * n;
                   for (int64_t i = 0; i < n; ++i)
                     into[i * each + at] = part == 2 && zero ? float(0) : source[i];
                 });
               }
               return 0.0;
             });
  return found;
}

Gradients jets_down(const Net& net, const std::string& second, const at::Tensor& lines,
                    const at::Tensor& x, const Derived& grads, const KeptJets& kept,
                    const std::vector<bool>& wants) {
  const bool again = kept.z.empty();
  const Weights by(net, wants, again);
  const Order order(second, lines.size(-2));
  const JetNet jets(by, order, lines);
  Accumulated sums(net, wants, x);
  const int64_t N = x.size(0), I = x.size(1), O = net.layers.back().outputs, K = order.lines;
  std::vector<const float*> from;
  for (const auto& each : grads)
    from.push_back(each.defined() ? each.const_data_ptr<float>() : nullptr);
  const float* data = x.const_data_ptr<float>();
  float* grad_x = sums.found.x.defined() ? sums.found.x.mutable_data_ptr<float>() : nullptr;
  const Split s = split_of(jets, N, kept.points, sums.numbers());
  const auto make = [&](float* memory) { return JetTile(jets, s.tile, true, memory); };
  const int64_t numbers = JetTile::numbers(jets, s.tile, true);
  over_tiles(s, sums, numbers, make,
             [&](JetTile& tile, int64_t row, int64_t rows, const Into& into) {
               kept.point(tile.z, row, N);
               if (again) tile.up(data + row * I, row, rows, false);
               const int64_t n = rows * O;
               float* g = tile.delta();
               std::fill(g, g + order.rows() * n, float(0));
               if (from[0]) std::copy(from[0] + row * O, from[0] + row * O + n, g);
               for (int part = 1; part < static_cast<int>(from.size()); ++part) {
                 if (!from[part]) continue;
                 const int64_t each = numbers_of(second, K, part), first = part == 1 ? 1 : 1 + K;
                 const float* source = from[part] + row * O * each;
                 of_output(second, K, part, [&](int64_t place, int64_t at) {
                   float* to = g + (first + place) * n;  // of a pair k, m both halves are added up
                   for (int64_t i = 0; i < n; ++i) to[i] += source[i * each + at];
                 });
               }
               tile.down(data + row * I, row, rows, into, grad_x ? grad_x + row * I : nullptr);
               return 0.0;
             });
  return sums.found;
}

}  // namespace manualbp
