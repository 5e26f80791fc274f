#include "taylor/jet_sweeps.h"

#include <type_traits>

#include "taylor/slopes.h"

namespace manualbp {

namespace {

using at::vec::fmadd;

// a' and a'' from z' and z'', count numbers from i on. Of a Laplacian the compiler knows every
// loop.
template <typename Known>
void raise(const Jets& jets, const Known& order, const Slopes& f, const float* z, float* h,
           int64_t i, int64_t count) {
  const int64_t n = jets.n, K = order.lines;
  const auto line = [&](int64_t k) { return load(z + (1 + k) * n + i, count); };
  store(f.a, h + i, count);
  for (int64_t k = 0; k < K; ++k) store(f.first * line(k), h + (1 + k) * n + i, count);
  for (int64_t p = 0; p < order.seconds(); ++p) {
    const int64_t at = (1 + K + p) * n + i;
    Vec q = number(0);
    for (const auto& [k, m] : order.squares[p]) q = fmadd(line(k), line(m), q);
    const Vec found = f.second * q;
    store(jets.curved ? fmadd(f.first, load(z + at, count), found) : found, h + at, count);
  }
}

// dC/dz, dC/dz' and dC/dz'' over those of a.
template <typename Known>
void lower(const Jets& jets, const Known& order, const Slopes& f, const float* z, float* g,
           int64_t i, int64_t count) {
  const int64_t n = jets.n, K = order.lines;
  const auto at_line = [&](int64_t k) { return (1 + k) * n + i; };
  const auto at_second = [&](int64_t p) { return (1 + K + p) * n + i; };
  const auto line = [&](int64_t k) { return load(z + at_line(k), count); };
  const auto g_second = [&](int64_t p) { return load(g + at_second(p), count); };
  Vec along = number(0), curved = number(0);  // what f'' and f''' are multiplied with
  for (int64_t k = 0; k < K; ++k) {
    const Vec each = load(g + at_line(k), count);
    along = fmadd(each, line(k), along);
    Vec pulled = number(0);
    for (const auto& [p, m, times] : order.pulls[k]) {
      pulled = fmadd(number(times) * g_second(p), line(m), pulled);
    }
    store(fmadd(f.first, each, f.second * pulled), g + at_line(k), count);
  }
  for (int64_t p = 0; p < order.seconds(); ++p) {
    const Vec each = g_second(p);
    Vec q = number(0);
    for (const auto& [k, m] : order.squares[p]) q = fmadd(line(k), line(m), q);
    curved = fmadd(each, q, curved);
    if (jets.curved) along = fmadd(each, load(z + at_second(p), count), along);
    store(f.first * each, g + at_second(p), count);
  }
  store(f.first * load(g + i, count) + f.second * along + f.third * curved, g + i, count);
}

// The order of jets, as far as the compiler knows it.
template <typename Known>
decltype(auto) known(const Jets& jets) {
  if constexpr (std::is_same_v<Known, Order>) {
    return (jets.order);
  } else {
    return Known();
  }
}

template <typename F, typename Known>
void jets_up(const Jets& jets, float* z, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  const auto& order = known<Known>(jets);
  sweep(jets.n, [&](int64_t i, int64_t count) {
    Vec cache = load(z + i, count), slope;
    if constexpr (F::keeps_a) {
      cache = F::up(cache, slope, by);
      store(cache, z + i, count);
    }
    raise(jets, order, slopes(F(), cache, by), z, h, i, count);
  });
}

template <typename F, typename Known>
void jets_down(const Jets& jets, const float* z, float* g, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  const auto& order = known<Known>(jets);
  sweep(jets.n, [&](int64_t i, int64_t count) {
    const Slopes found = slopes(F(), load(z + i, count), by);
    if (h) raise(jets, order, found, z, h, i, count);
    if (g) lower(jets, order, found, z, g, i, count);
  });
}

template <typename Known>
const JetSweeps& sweeps_of(const std::string& name) {
  static const auto table = table_of<JetSweeps>([](auto f) {
    using F = decltype(f);
    return JetSweeps{&jets_up<F, Known>, &jets_down<F, Known>};
  });
  return table.at(name);
}

}  // namespace

const JetSweeps& jet_activation(const std::string& name, const Order& order) {
  const int64_t lines = order.is_laplacian() ? order.lines : 0;
  if (lines == 1) return sweeps_of<Laplacian<1>>(name);
  if (lines == 2) return sweeps_of<Laplacian<2>>(name);
  if (lines == 3) return sweeps_of<Laplacian<3>>(name);
  return sweeps_of<Order>(name);
}

}  // namespace manualbp
