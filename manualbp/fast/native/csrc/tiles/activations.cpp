#include "tiles/activations.h"

namespace manualbp {

const Sweeps* activation(const std::string& name) {
  static const auto table = table_of<Sweeps>([](auto f) { return sweeps_of<decltype(f)>(); });
  const auto found = table.find(name);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace manualbp
