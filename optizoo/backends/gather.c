/* Reads where the tensors of an optimizer lie, at every step, and whether anything about them has changed.

   A step over small tensors is mostly the reading of pointers: 0.1 us a tensor in Python, a tenth of that here. Tensors
   are read through the exchange API of DLPack, which torch gives out for this; the functions of Python are those of
   its stable ABI, declared here so that no header is needed. The caller holds the GIL and keeps all objects alive. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct _object PyObject;
PyObject *PyObject_GetAttr(PyObject *object, PyObject *name);
PyObject *PyObject_Type(PyObject *object);
int PyDict_Next(PyObject *dict, ptrdiff_t *position, PyObject **key, PyObject **value);
ptrdiff_t PyDict_Size(PyObject *dict);
ptrdiff_t PyList_Size(PyObject *list);
PyObject *PyList_GetItem(PyObject *list, ptrdiff_t index);
void Py_DecRef(PyObject *object);
void PyErr_Clear(void);

typedef struct { /* DLTensor of DLPack 1 */
    char *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} tensor_t;
typedef int (*read_t)(void *object, tensor_t *out);
enum { DEVICE, DTYPE, CLASS, DIMENSIONS, SIZES }; /* places in a layout; sizes and strides alternate from SIZES on */

typedef struct { /* an entry of a dict, as it was */
    PyObject *key, *value;
    int64_t column;        /* of the pointer table; COUNTER for `step`, OTHER where it does not matter */
    const int64_t *layout; /* what describe() wrote */
    float *counter;        /* its number, whose memory the caller keeps: reading 1000 addresses would take 36 us */
} item_t;
enum { OTHER = -1, COUNTER = -2 };

typedef struct { /* a parameter */
    PyObject *param;
    void **pointers; /* of its bucket, at its place in the first column; NULL: it has no gradient and is left alone */
    int64_t stride;  /* from one column to the next: the number of tensors in the bucket */
    const int64_t *param_layout, *grad_layout;
    int64_t items;
    PyObject *store; /* its state, or NULL */
    const item_t *item;
    const double *step; /* what its counter must hold */
} entry_t;

typedef struct {
    read_t read;
    PyObject *grad_name, *none;
    PyObject *state; /* optimizer.state */
    int64_t states;
    const item_t *stored;
    int64_t groups;
    PyObject *const *lists; /* the list of parameters of every group */
    const int64_t *sizes;
    const entry_t *entry; /* one for every parameter of every group */
} watch_t;

static int64_t class_of(PyObject *object) {
    PyObject *type = PyObject_Type(object);
    Py_DecRef(type); /* the object lives, so its class does */
    return (int64_t)(intptr_t)type;
}

/* Write device, type, class, shape and strides of a tensor: 4 + 2 ndim numbers. Return 0, or -1 if it cannot be read. */
int optizoo_describe(read_t read, PyObject *object, int64_t *layout) {
    tensor_t tensor;
    if (read(object, &tensor) != 0) {
        PyErr_Clear();
        return -1;
    }
    layout[DEVICE] = tensor.device_type;
    layout[DTYPE] = tensor.code << 8 | tensor.bits;
    layout[CLASS] = class_of(object);
    layout[DIMENSIONS] = tensor.ndim;
    for (int i = 0; i < tensor.ndim; i++) {
        layout[SIZES + 2 * i] = tensor.shape[i];
        layout[SIZES + 2 * i + 1] = tensor.strides[i];
    }
    return 0;
}

/* Return the address of a tensor, or NULL with *changed set if its layout is another one now. */
static void *address(read_t read, PyObject *object, const int64_t *layout, int *changed) {
    tensor_t tensor;
    if (read(object, &tensor) != 0) {
        PyErr_Clear();
        *changed = 1;
        return NULL;
    }
    int64_t difference = layout[DEVICE] ^ tensor.device_type;
    difference |= layout[DTYPE] ^ (tensor.code << 8 | tensor.bits);
    difference |= layout[CLASS] ^ class_of(object);
    difference |= layout[DIMENSIONS] ^ tensor.ndim;
    for (int i = 0; !difference && i < tensor.ndim; i++)
        difference |= (layout[SIZES + 2 * i] ^ tensor.shape[i]) | (layout[SIZES + 2 * i + 1] ^ tensor.strides[i]);
    *changed |= difference != 0;
    return tensor.data + tensor.byte_offset;
}

static int same_items(PyObject *dict, int64_t count, const item_t *items) {
    ptrdiff_t position = 0;
    PyObject *key, *value;
    if (PyDict_Size(dict) != count)
        return 0;
    for (int64_t i = 0; i < count && PyDict_Next(dict, &position, &key, &value); i++)
        if (key != items[i].key || value != items[i].value)
            return 0;
    return 1;
}

/* Return 1 if all is as it was, with the pointers brought up to date and every counter advanced by 1; else 0, with
   no counter touched. */
int optizoo_gather(const watch_t *watch, float **counters) {
    const entry_t *entry = watch->entry;
    float **counter = counters;
    int changed = 0;
    if (!same_items(watch->state, watch->states, watch->stored))
        return 0;
    for (int64_t group = 0; group < watch->groups; group++) {
        PyObject *list = watch->lists[group];
        if (PyList_Size(list) != watch->sizes[group])
            return 0;
        for (int64_t i = 0; i < watch->sizes[group]; i++, entry++) {
            if (PyList_GetItem(list, i) != entry->param)
                return 0;
            PyObject *grad = PyObject_GetAttr(entry->param, watch->grad_name);
            if (!grad) {
                PyErr_Clear();
                return 0;
            }
            Py_DecRef(grad); /* its parameter keeps it */
            if ((grad == watch->none) != !entry->pointers)
                return 0;
            if (!entry->pointers)
                continue;
            entry->pointers[0] = address(watch->read, entry->param, entry->param_layout, &changed);
            entry->pointers[entry->stride] = address(watch->read, grad, entry->grad_layout, &changed);
            if (entry->store && !same_items(entry->store, entry->items, entry->item))
                return 0;
            for (const item_t *item = entry->item; item < entry->item + entry->items; item++) {
                if (item->column == COUNTER) {
                    *counter = item->counter;
                    if (**counter++ != *entry->step)
                        return 0;
                } else if (item->column != OTHER) {
                    entry->pointers[item->column * entry->stride] = address(watch->read, item->value, item->layout, &changed);
                }
            }
            if (changed)
                return 0;
        }
    }
    while (counter > counters)
        **--counter += 1;
    return 1;
}
