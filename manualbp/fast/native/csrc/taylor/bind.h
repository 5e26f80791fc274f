// Python's door to the derivatives.
#pragma once
#include <torch/csrc/utils/pybind.h>

namespace manualbp {

void bind_taylor(pybind11::module_& m);

}  // namespace manualbp
