#include "taylor/jet_sweeps.h"

#include <algorithm>

#include "taylor/slopes.h"

namespace manualbp {

namespace {

using at::vec::fmadd;

// Any order.
struct AnyOrder {};

// The Laplacian along K lines, with q = sum_k z'_k^2 and dq/dz'_k = 2 z'_k. The compiler knows its
// loops, so a point's numbers stay in registers: a third of the time of any order's.
template <int64_t K>
struct Laplacian {};

// a' and a'' from z' and z'', count numbers from i on.
void raise(AnyOrder, const Jets& jets, const Slopes& f, const float* z, float* h, int64_t i,
           int64_t count) {
  const int64_t n = jets.n, K = jets.order.lines;
  const auto line = [&](int64_t k) { return load(z + (1 + k) * n + i, count); };
  store(f.a, h + i, count);
  for (int64_t k = 0; k < K; ++k) store(f.first * line(k), h + (1 + k) * n + i, count);
  for (int64_t p = 0; p < jets.order.seconds(); ++p) {
    const int64_t at = (1 + K + p) * n + i;
    Vec q = number(0);
    for (const auto& [k, m] : jets.order.squares[p]) q = fmadd(line(k), line(m), q);
    const Vec found = f.second * q;
    store(jets.curved ? fmadd(f.first, load(z + at, count), found) : found, h + at, count);
  }
}

template <int64_t K>
void raise(Laplacian<K>, const Jets& jets, const Slopes& f, const float* z, float* h, int64_t i,
           int64_t count) {
  const int64_t n = jets.n, last = (1 + K) * n + i;
  Vec q = number(0);
  store(f.a, h + i, count);
  for (int64_t k = 0; k < K; ++k) {
    const Vec line = load(z + (1 + k) * n + i, count);
    q = fmadd(line, line, q);
    store(f.first * line, h + (1 + k) * n + i, count);
  }
  const Vec found = f.second * q;
  store(jets.curved ? fmadd(f.first, load(z + last, count), found) : found, h + last, count);
}

// dC/dz, dC/dz' and dC/dz'' over those of a.
void lower(AnyOrder, const Jets& jets, const Slopes& f, const float* z, float* g, int64_t i,
           int64_t count) {
  const int64_t n = jets.n, K = jets.order.lines;
  const auto at_line = [&](int64_t k) { return (1 + k) * n + i; };
  const auto line = [&](int64_t k) { return load(z + at_line(k), count); };
  Vec along = number(0), curved = number(0);
  for (int64_t k = 0; k < K; ++k) {
    const Vec each = load(g + at_line(k), count);
    along = fmadd(each, line(k), along);
    store(f.first * each, g + at_line(k), count);
  }
  for (int64_t p = 0; p < jets.order.seconds(); ++p) {
    const int64_t at = (1 + K + p) * n + i;
    const Vec each = load(g + at, count), pulls = f.second * each;
    const auto add = [&](int64_t k, const Vec& term) {
      store(fmadd(pulls, term, load(g + at_line(k), count)), g + at_line(k), count);
    };
    Vec q = number(0);
    for (const auto& [k, m] : jets.order.squares[p]) {
      const Vec left = line(k), right = line(m);
      q = fmadd(left, right, q);
      if (k == m) {
        add(k, left + left);
      } else {
        add(k, right);
        add(m, left);
      }
    }
    curved = fmadd(each, q, curved);
    if (jets.curved) along = fmadd(each, load(z + at, count), along);
    store(f.first * each, g + at, count);
  }
  store(f.first * load(g + i, count) + f.second * along + f.third * curved, g + i, count);
}

template <int64_t K>
void lower(Laplacian<K>, const Jets& jets, const Slopes& f, const float* z, float* g, int64_t i,
           int64_t count) {
  const int64_t n = jets.n, last = (1 + K) * n + i;
  const Vec g_second = load(g + last, count), pulls = number(2) * f.second * g_second;
  Vec along = jets.curved ? g_second * load(z + last, count) : number(0), q = number(0);
  for (int64_t k = 0; k < K; ++k) {
    const int64_t at = (1 + k) * n + i;
    const Vec line = load(z + at, count), each = load(g + at, count);
    along = fmadd(each, line, along);
    q = fmadd(line, line, q);
    store(fmadd(pulls, line, f.first * each), g + at, count);
  }
  store(f.first * g_second, g + last, count);
  store(f.first * load(g + i, count) + f.second * along + f.third * g_second * q, g + i, count);
}

template <typename F, typename Kind>
void jets_up(const Jets& jets, float* z, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(jets.n, [&](int64_t i, int64_t count) {
    Vec cache = load(z + i, count), slope;
    if constexpr (F::keeps_a) {
      cache = F::up(cache, slope, by);
      store(cache, z + i, count);
    }
    raise(Kind(), jets, slopes(F(), cache, by), z, h, i, count);
  });
}

template <typename F, typename Kind>
void jets_down(const Jets& jets, const float* z, float* g, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(jets.n, [&](int64_t i, int64_t count) {
    const Slopes found = slopes(F(), load(z + i, count), by);
    if (h) raise(Kind(), jets, found, z, h, i, count);
    if (g) lower(Kind(), jets, found, z, g, i, count);
  });
}

template <typename Kind>
const JetSweeps& sweeps_of(const std::string& name) {
  static const auto table = table_of<JetSweeps>([](auto f) {
    using F = decltype(f);
    return JetSweeps{&jets_up<F, Kind>, &jets_down<F, Kind>};
  });
  return table.at(name);
}

}  // namespace

const JetSweeps& jet_activation(const std::string& name, const Order& order) {
  const int64_t K = order.lines;
  const auto own = [](const auto& each) { return each.first == each.second; };
  const bool laplacian = order.seconds() == 1 && std::ssize(order.squares[0]) == K &&
                         std::all_of(order.squares[0].begin(), order.squares[0].end(), own);
  if (laplacian && K == 1) return sweeps_of<Laplacian<1>>(name);
  if (laplacian && K == 2) return sweeps_of<Laplacian<2>>(name);
  if (laplacian && K == 3) return sweeps_of<Laplacian<3>>(name);
  return sweeps_of<AnyOrder>(name);
}

}  // namespace manualbp
