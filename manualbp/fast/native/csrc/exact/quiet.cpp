// What may be at work around a call, and what a tensor or a dict is.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "guard.h"

namespace manualbp::exact {
namespace {

struct Surroundings {
  std::vector<PyObject*> hooks;
  PyObject *module = nullptr, *call = nullptr, *distributed = nullptr, *skipped = nullptr;
} around;

}  // namespace

void set_surroundings(PyObject* hooks, PyObject* module, PyObject* call, PyObject* distributed,
                      PyObject* skipped) {
  for (PyObject* each : {hooks, module, call, distributed, skipped}) Py_INCREF(each);  // for ever
  around.hooks.clear();
  for (Py_ssize_t i = 0; i < PyTuple_Size(hooks); ++i) {
    around.hooks.push_back(PyTuple_GetItem(hooks, i));
  }
  around.module = module;
  around.call = call;
  around.distributed = distributed;
  around.skipped = skipped;
}

bool Guard::is_skipped(PyObject* key) { return key == around.skipped; }

bool quiet(bool graph) {
  static PyObject* const CALL = PyUnicode_InternFromString("__call__");
  if (graph && !at::GradMode::is_enabled()) return false;
  // Autocast, functorch, tracing, inference mode and dispatch modes all show here.
  const auto tls = c10::impl::tls_local_dispatch_key_set();
  if (tls.included_ != c10::default_included_set || tls.excluded_ != c10::default_excluded_set) {
    return false;
  }
  if (at::impl::PythonTorchFunctionTLS::stack_len() > 0 ||
      c10::impl::TorchDispatchModeTLS::any_modes_set() ||
      torch::autograd::ForwardADLevel::try_get_by_idx(0)) {
    return false;
  }
  for (PyObject* hooks : around.hooks) {
    if (PyDict_Size(hooks) != 0) return false;
  }
  PyObject* call = PyObject_GetAttr(around.module, CALL);
  Py_XDECREF(call);
  PyObject* distributed = call ? PyObject_CallNoArgs(around.distributed) : nullptr;
  if (!distributed) PyErr_Clear();
  Py_XDECREF(distributed);
  return call == around.call && distributed == Py_False;
}

std::vector<std::pair<PyObject*, PyObject*>> Guard::items_of(PyObject* dict) {
  std::vector<std::pair<PyObject*, PyObject*>> found;
  Py_ssize_t position = 0;
  PyObject *key, *value;
  while (PyDict_Next(dict, &position, &key, &value)) {
    if (!is_skipped(key)) found.emplace_back(key, value);
  }
  return found;
}

bool Guard::same(const Snapshot& snapshot) const {
  if (!snapshot.whole) {
    return std::all_of(snapshot.items.begin(), snapshot.items.end(), [&](const auto& item) {
      return PyDict_GetItem(snapshot.dict, item.first) == item.second;
    });
  }
  Py_ssize_t position = 0;
  PyObject *key, *value;
  auto expected = snapshot.items.begin();
  const auto end = snapshot.items.end();
  while (PyDict_Next(snapshot.dict, &position, &key, &value)) {
    if (is_skipped(key)) continue;
    if (expected == end || expected->second != value || expected->first != key) return false;
    ++expected;
  }
  return expected == end;
}

State::State(const at::Tensor& tensor)
    : keys(tensor.key_set()),
      dtype(tensor.scalar_type()),
      device(tensor.device()),
      sizes(tensor.sizes().vec()),
      strides(tensor.strides().vec()),
      requires_grad(tensor.requires_grad()) {}

bool State::fits(PyObject* object, bool needs) const {
  const at::Tensor& tensor = THPVariable_Unpack(object);
  return tensor.key_set() == keys && tensor.scalar_type() == dtype && tensor.device() == device &&
         tensor.requires_grad() == needs && tensor.sizes() == at::IntArrayRef(sizes) &&
         tensor.strides() == at::IntArrayRef(strides);
}

}  // namespace manualbp::exact
