#include "taylor/jet_sweeps.h"

#include "taylor/slopes.h"

namespace manualbp {

namespace {

// a' and a'' from z' and z'', count numbers from i on.
void raise(const Jets& jets, const Slopes& f, const float* z, float* h, int64_t i, int64_t count) {
  const int64_t n = jets.n, K = jets.order.lines;
  const auto line = [&](int64_t k) { return load(z + (1 + k) * n + i, count); };
  store(f.a, h + i, count);
  for (int64_t k = 0; k < K; ++k) store(f.first * line(k), h + (1 + k) * n + i, count);
  for (int64_t p = 0; p < jets.order.seconds(); ++p) {
    const int64_t at = (1 + K + p) * n + i;
    Vec q = number(0);
    for (const auto& [k, m] : jets.order.squares[p]) q = at::vec::fmadd(line(k), line(m), q);
    const Vec found = f.second * q;
    store(jets.curved ? at::vec::fmadd(f.first, load(z + at, count), found) : found, h + at, count);
  }
}

// dC/dz, dC/dz' and dC/dz'' over those of a.
void lower(const Jets& jets, const Slopes& f, const float* z, float* g, int64_t i, int64_t count) {
  const int64_t n = jets.n, K = jets.order.lines;
  const auto at_line = [&](int64_t k) { return (1 + k) * n + i; };
  const auto line = [&](int64_t k) { return load(z + at_line(k), count); };
  Vec along = number(0), curved = number(0);
  for (int64_t k = 0; k < K; ++k) {
    const Vec each = load(g + at_line(k), count);
    along = at::vec::fmadd(each, line(k), along);
    store(f.first * each, g + at_line(k), count);
  }
  for (int64_t p = 0; p < jets.order.seconds(); ++p) {
    const int64_t at = (1 + K + p) * n + i;
    const Vec each = load(g + at, count), pulls = f.second * each;
    const auto add = [&](int64_t k, const Vec& term) {
      store(load(g + at_line(k), count) + pulls * term, g + at_line(k), count);
    };
    Vec q = number(0);
    for (const auto& [k, m] : jets.order.squares[p]) {
      const Vec left = line(k), right = line(m);
      q = at::vec::fmadd(left, right, q);
      if (k == m) {
        add(k, left + left);
      } else {
        add(k, right);
        add(m, left);
      }
    }
    curved = at::vec::fmadd(each, q, curved);
    if (jets.curved) along = at::vec::fmadd(each, load(z + at, count), along);
    store(f.first * each, g + at, count);
  }
  store(f.first * load(g + i, count) + f.second * along + f.third * curved, g + i, count);
}

template <typename F>
void jets_up(const Jets& jets, float* z, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(jets.n, [&](int64_t i, int64_t count) {
    Vec cache = load(z + i, count), slope;
    if constexpr (F::keeps_a) {
      cache = F::up(cache, slope, by);
      store(cache, z + i, count);
    }
    raise(jets, slopes(F(), cache, by), z, h, i, count);
  });
}

template <typename F>
void jets_down(const Jets& jets, const float* z, float* g, float* h, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(jets.n, [&](int64_t i, int64_t count) {
    const Slopes found = slopes(F(), load(z + i, count), by);
    if (h) raise(jets, found, z, h, i, count);
    if (g) lower(jets, found, z, g, i, count);
  });
}

template <typename F>
constexpr JetSweeps sweeps_of_jets() {
  return {&jets_up<F>, &jets_down<F>};
}

}  // namespace

const JetSweeps& jet_activation(const std::string& name) {
  static const auto table =
      table_of<JetSweeps>([](auto f) { return sweeps_of_jets<decltype(f)>(); });
  return table.at(name);
}

}  // namespace manualbp
