#include "taylor/gradient_tile.h"
#include "taylor/slopes.h"

namespace manualbp {

namespace {

template <typename F>
void slope(const float* z, const float* d, float* e, int64_t n, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(n, [&](int64_t i, int64_t count) {
    store(slopes(F(), load(z + i, count), by).first * load(d + i, count), e + i, count);
  });
}

template <typename F>
void tangent(const float* z, const float* d, float* v, float* e, float* brought, int64_t n,
             double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(n, [&](int64_t i, int64_t count) {
    const Slopes f = slopes(F(), load(z + i, count), by);
    const Vec down = load(d + i, count), along = load(v + i, count);
    store(f.first * down, e + i, count);
    store(at::vec::fmadd(f.second * down, along, load(brought + i, count)), brought + i, count);
    store(f.first * along, v + i, count);
  });
}

template <typename F>
void down(const float* z, float* g, const float* brought, float* a, int64_t n, double p, double q) {
  const Parameters by{number(p), number(q)};
  sweep(n, [&](int64_t i, int64_t count) {
    const Slopes f = slopes(F(), load(z + i, count), by);
    if (a) store(f.a, a + i, count);
    if (!g) return;
    const Vec found = f.first * load(g + i, count);
    store(brought ? found + load(brought + i, count) : found, g + i, count);
  });
}

template <typename F>
constexpr GradientSweeps sweeps_of_gradient() {
  return {&slope<F>, &tangent<F>, &down<F>};
}

}  // namespace

const GradientSweeps& gradient_activation(const std::string& name) {
  static const auto table =
      table_of<GradientSweeps>([](auto f) { return sweeps_of_gradient<decltype(f)>(); });
  return table.at(name);
}

}  // namespace manualbp
