/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Capabilities: what the public QMP schema calls the ways to migrate that are switched on or off.
 * "auto-converge" slows down a guest that dirties memory faster than it is sent.
 * "multifd" sends RAM over as many connections as the parameter multifd-channels says, or has so
 * many threads for a file. "postcopy-ram" lets
 * the guest go before its memory. A destination follows its source and needs none of them. For
 * files there are "mapped-ram", every page in its place, which is on unless somebody wants a
 * stream, and "background-snapshot", the guest running.
 */
#include <errno.h>
#include <string.h>

#include "migration/migration.h"
#include "vmm/control.h"

static const struct {
	const char *name;
	size_t offset; /* of an _Atomic bool in struct migration_params */
} capabilities[] = {
	{ "multifd", offsetof(struct migration_params, multifd) },
	{ "postcopy-ram", offsetof(struct migration_params, postcopy) },
	{ "mapped-ram", offsetof(struct migration_params, mapped_ram) },
	{ "background-snapshot", offsetof(struct migration_params, background) },
	{ "auto-converge", offsetof(struct migration_params, auto_converge) },
};

#define N_CAPABILITIES (sizeof(capabilities) / sizeof(capabilities[0]))

static _Atomic bool *capability(struct migration *m, size_t i)
{
	return (_Atomic bool *)((char *)&m->params + capabilities[i].offset);
}

static int no_memory(struct error *err)
{
	return error_set(err, -ENOMEM, "migrate", "capabilities", "", "memory", "none");
}

/* One of the list, checked: its index in the table, N_CAPABILITIES for a switch that is off anyway.
 */
static int parse_one(const json_t *one, size_t *i, bool *state, struct error *err)
{
	const char *name = json_string_value(json_object_get(one, "capability"));
	const json_t *value = json_object_get(one, "state");

	if (!name || !json_is_boolean(value))
		return error_set(err, -EINVAL, "control", "argument", "capabilities",
				 "a list of {capability, state}", "another value");
	*state = json_is_true(value);
	for (*i = 0; *i < N_CAPABILITIES; ++*i) {
		if (strcmp(name, capabilities[*i].name) == 0)
			return 0;
	}
	if (!*state)
		return 0;
	return error_set(err, -EINVAL, "control", "argument", "capability",
			 "one that query-migrate-capabilities lists", "%.60s", name);
}

static int run_set(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = migration_get(vm);
	const json_t *list = json_object_get(args, "capabilities");
	bool wanted[N_CAPABILITIES];

	(void)ret;
	if (!m)
		return no_memory(err);
	if (!json_is_array(list))
		return error_set(err, -EINVAL, "control", "argument", "capabilities",
				 "a list of {capability, state}", "none");
	for (size_t i = 0; i < N_CAPABILITIES; i++)
		wanted[i] = *capability(m, i);
	for (size_t n = 0; n < json_array_size(list); n++) {
		bool state = false;
		size_t i = N_CAPABILITIES;
		int code = parse_one(json_array_get(list, n), &i, &state, err);

		if (code < 0)
			return code;
		if (i < N_CAPABILITIES)
			wanted[i] = state;
	}
	for (size_t i = 0; i < N_CAPABILITIES; i++)
		*capability(m, i) = wanted[i];
	return 0;
}

static int run_query(struct vm *vm, json_t *args, json_t **ret, struct error *err)
{
	struct migration *m = migration_get(vm);

	(void)args;
	if (!m)
		return no_memory(err);
	*ret = json_array();
	for (size_t i = 0; i < N_CAPABILITIES; i++)
		json_array_append_new(*ret,
				      json_pack("{s:s, s:b}", "capability", capabilities[i].name,
						"state", (int)*capability(m, i)));
	return 0;
}

static const struct control_command set_command = {
	.name = "migrate-set-capabilities",
	.args = "capabilities",
	.run = run_set,
};
CONTROL_COMMAND(set_command);

static const struct control_command query_command = {
	.name = "query-migrate-capabilities",
	.args = "",
	.run = run_query,
};
CONTROL_COMMAND(query_command);
