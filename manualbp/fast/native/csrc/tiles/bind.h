// What Python sees of the tiles: fast/native/tiled.py.
#pragma once
#include <torch/csrc/utils/pybind.h>

namespace manualbp {

void bind_tiles(pybind11::module_& m);

}  // namespace manualbp
