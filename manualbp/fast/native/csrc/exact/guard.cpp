#include "guard.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "python.h"

namespace manualbp::exact {

// Whether the PyObject that an attribute is now, is that object.
static bool is_still(PyObject* owner, PyObject* name, PyObject* expected) {
  PyObject* found = PyObject_GetAttr(owner, name);
  if (!found) PyErr_Clear();
  Py_XDECREF(found);
  return found == expected;
}

Guard::Guard(PyObject* children, PyObject* dicts, PyObject* empty, PyObject* classes)
    : held_(PyList_New(0)) {
  for (PyObject* each : {dicts, empty, classes}) hold(each);
  if (PyDict_Check(children)) {
    for (const auto& [key, value] : items_of(children)) {
      hold(key);
      children_.push_back({key, value, Py_TYPE(value)});
    }
  } else {
    for (Py_ssize_t i = 0; i < PyTuple_Size(children); ++i) {
      PyObject* child = PyTuple_GetItem(children, i);
      children_.push_back({nullptr, child, Py_TYPE(child)});
    }
  }
  for (const auto& child : children_) {
    hold(child.module);
    hold(reinterpret_cast<PyObject*>(child.type));
  }
  for (Py_ssize_t i = 0; i < PyList_Size(dicts); ++i) {
    PyObject* each = PyList_GetItem(dicts, i);
    if (PyTuple_Check(each)) {
      PyObject *dict = PyTuple_GetItem(each, 0), *keys = PyTuple_GetItem(each, 1);
      dicts_.push_back({dict, {}, false});
      for (Py_ssize_t k = 0; k < PyTuple_Size(keys); ++k) {
        PyObject* key = PyTuple_GetItem(keys, k);
        dicts_.back().items.emplace_back(key, PyDict_GetItem(dict, key));
      }
    } else {
      dicts_.push_back({each, items_of(each), true});
    }
    for (const auto& [key, value] : dicts_.back().items) {
      hold(key);
      if (value) hold(value);
    }
  }
  for (Py_ssize_t i = 0; i < PyList_Size(empty); ++i) empty_.push_back(PyList_GetItem(empty, i));
  for (Py_ssize_t i = 0; i < PyList_Size(classes); ++i) {
    PyObject* each = PyList_GetItem(classes, i);
    classes_.push_back(
        {PyTuple_GetItem(each, 0), PyTuple_GetItem(each, 1), PyTuple_GetItem(each, 2)});
  }
}

void Guard::hold(PyObject* object) {
  if (PyList_Append(held_, object) != 0) throw python_error();
}

bool Guard::same_children(PyObject* children) const {
  auto expected = children_.begin();
  const auto end = children_.end();
  const auto is_next = [&](PyObject* key, PyObject* child) {
    if (expected == end || expected->module != child || expected->type != Py_TYPE(child)) {
      return false;
    }
    return !expected->key || expected->key == key;
  };
  if (PyDict_Check(children)) {
    Py_ssize_t position = 0;
    PyObject *key, *child;
    while (PyDict_Next(children, &position, &key, &child)) {
      if (is_skipped(key)) continue;
      if (!is_next(key, child)) return false;
      ++expected;
    }
  } else {
    for (Py_ssize_t i = 0; i < PyTuple_Size(children); ++i, ++expected) {
      if (!is_next(nullptr, PyTuple_GetItem(children, i))) return false;
    }
  }
  return expected == end;
}

bool Guard::holds(PyObject* children, bool graph) const {
  static PyObject* const FORWARD = PyUnicode_InternFromString("forward");
  static PyObject* const CALL = PyUnicode_InternFromString("__call__");
  if (!held_ || !quiet(graph) || !same_children(children)) return false;
  for (const auto& snapshot : dicts_) {
    if (!same(snapshot)) return false;
  }
  for (PyObject* dict : empty_) {
    if (PyDict_Size(dict) != 0) return false;
  }
  for (const auto& each : classes_) {
    if (!is_still(each.type, FORWARD, each.forward) || !is_still(each.type, CALL, each.call)) {
      return false;
    }
  }
  return true;
}

std::shared_ptr<const Served> Guard::find(PyObject* children, PyObject* way,
                                          PyObject* const* inputs, size_t count) const {
  for (size_t i = 0; i < count; ++i) {
    if (!THPVariable_CheckExact(inputs[i])) return nullptr;
  }
  if (!holds(children, true)) return nullptr;
  for (const auto& each : served_) {
    if (each->in_way(way) && each->fits(inputs, count)) return each;
  }
  return nullptr;
}

void Guard::serve(std::shared_ptr<Served> served, PyObject* owned) {
  constexpr size_t MOST = 8;  // batches of other shapes that are remembered
  if (!held_ || served_.size() >= MOST) return;
  hold(owned);
  for (PyObject* tensor : served->tensors) hold(tensor);
  served_.push_back(std::move(served));
}

int Guard::traverse(visitproc visit, void* arg) const {
  Py_VISIT(held_);
  return 0;
}

void Guard::clear() {
  served_.clear();
  Py_CLEAR(held_);
}

void Served::describe(const std::vector<at::Tensor>& given, PyObject* list) {
  for (const auto& input : given) inputs.emplace_back(input);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
    PyObject* tensor = PyList_GET_ITEM(list, i);
    tensors.push_back(tensor);
    if (!Py_IsNone(tensor)) tensor_states.emplace_back(THPVariable_Unpack(tensor));
  }
}

bool Served::fits(PyObject* const* given, size_t count) const {
  if (count != inputs.size()) return false;
  for (size_t i = 0; i < count; ++i) {
    if (!inputs[i].fits(given[i], inputs[i].requires_grad)) return false;
  }
  size_t at = 0;
  for (PyObject* tensor : tensors) {
    if (Py_IsNone(tensor)) continue;
    const auto& state = tensor_states[at++];
    if (!THPVariable_CheckExact(tensor)) return false;
    const bool needs = fixed ? state.requires_grad : THPVariable_Unpack(tensor).requires_grad();
    if (!state.fits(tensor, needs)) return false;
  }
  return true;
}

PyObject* ServedChain::run(PyObject* const* given) const {
  Tensors parameters;
  parameters.reserve(tensors.size());
  for (PyObject* t : tensors) {
    parameters.push_back(Py_IsNone(t) ? at::Tensor() : THPVariable_Unpack(t));
  }
  const at::Tensor x = THPVariable_Unpack(given[0]);
  const Held alive = held(segment);
  return THPVariable_Wrap(
      without_gil([&] { return exact::run(chain, alive, parameters, x, second); }));
}

PyObject* ServedCost::run(PyObject* const* given) const {
  const at::Tensor o = THPVariable_Unpack(given[0]), y = THPVariable_Unpack(given[1]);
  Loss now = loss;
  if (!Py_IsNone(tensors[0])) now.weight = THPVariable_Unpack(tensors[0]);
  if (!Py_IsNone(tensors[1])) now.pos_weight = THPVariable_Unpack(tensors[1]);
  const Held alive = held(rule);
  return THPVariable_Wrap(without_gil([&] { return cost(now, alive, o, y); }));
}

}  // namespace manualbp::exact
