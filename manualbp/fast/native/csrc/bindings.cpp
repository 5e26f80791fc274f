// What Python sees of this library. The only file that knows pybind11.
#include <torch/csrc/utils/pybind.h>

#include "descent.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("descend", &manualbp::descend, pybind11::arg("parameters"), pybind11::arg("epsilon"),
        pybind11::call_guard<pybind11::gil_scoped_release>());
}
