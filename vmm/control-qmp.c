/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One QMP request in, one reply out. Rules and words of errors are those of the QEMU Machine
 * Protocol Specification, 2.2 to 2.4; class GenericError is for all but unknown commands.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/control-server.h"

json_t *control_refusal(const char *class, const char *fmt, ...)
{
	char desc[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(desc, sizeof(desc), fmt, ap);
	va_end(ap);
	return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc", json_text(desc));
}

json_t *control_version(void)
{
	unsigned int major = 0, minor = 0, micro = 0;

	sscanf(FERRY_VERSION, "%u.%u.%u", &major, &minor, &micro);
	/* The schema calls it so whoever the server is. */
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", major, "minor", minor,
			 "micro", micro, "package", "ferry " FERRY_VERSION);
}

json_t *control_greeting(void)
{
	return json_pack("{s:{s:o, s:[]}}", "QMP", "version", control_version(), "capabilities");
}

/* NULL when @request has the form of one. */
static json_t *check_form(json_t *request)
{
	const char *key;
	json_t *value;

	if (!json_is_object(request))
		return control_refusal("GenericError", "QMP input must be a JSON object");
	json_object_foreach (request, key, value) {
		if (!strcmp(key, "execute")) {
			if (!json_is_string(value))
				return control_refusal("GenericError",
						       "QMP input member 'execute' must be a "
						       "string");
		} else if (!strcmp(key, "arguments")) {
			if (!json_is_object(value))
				return control_refusal("GenericError",
						       "QMP input member 'arguments' must be an "
						       "object");
		} else if (strcmp(key, "id")) {
			return control_refusal("GenericError",
					       "QMP input member '%.100s' is unexpected", key);
		}
	}
	if (!json_object_get(request, "execute"))
		return control_refusal("GenericError", "QMP input lacks member 'execute'");
	return NULL;
}

/* Is @name one of the words of @list? */
static bool listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	while (*list) {
		size_t word = strcspn(list, " ");

		if (word == len && !memcmp(list, name, len))
			return true;
		list += word;
		list += strspn(list, " ");
	}
	return false;
}

static json_t *check_args(const char *list, json_t *args)
{
	const char *key;
	json_t *value;

	json_object_foreach (args, key, value) {
		if (!listed(list, key))
			return control_refusal("GenericError", "Parameter '%.100s' is unexpected",
					       key);
	}
	return NULL;
}

static json_t *negotiate(json_t *args, bool *ready)
{
	json_t *enable = json_object_get(args, "enable"), *refusal;

	if (*ready)
		return control_refusal("CommandNotFound", "Capabilities negotiation is already "
							  "complete, command ignored");
	refusal = check_args("enable", args);
	if (refusal)
		return refusal;
	if (enable && !json_is_array(enable))
		return control_refusal("GenericError", "Parameter 'enable' must be an array");
	if (json_array_size(enable))
		return control_refusal("GenericError", "Capability '%.100s' is not available",
				       json_string_value(json_array_get(enable, 0)) ?: "");
	*ready = true;
	return json_pack("{s:{}}", "return");
}

static json_t *run(struct vm *vm, const struct control_command *command, json_t *args)
{
	struct error err = { 0 };
	json_t *ret = NULL, *data, *reply;
	int code = command->run(vm, args, &ret, &err);

	if (code >= 0)
		return json_pack("{s:o}", "return", ret ? ret : json_object());
	json_decref(ret);
	error_set(&err, code, "control", command->name, "", "", "%s", strerror(-code));
	data = error_to_json(&err);
	reply = json_pack("{s:{s:s, s:O}}", "error", "class", "GenericError", "desc",
			  json_object_get(data, "desc"));
	json_object_del(data, "desc");
	json_object_set_new(json_object_get(reply, "error"), "data", data);
	return reply;
}

static json_t *dispatch(struct vm *vm, bool *ready, bool aside, const char *name, json_t *args)
{
	if (!strcmp(name, "qmp_capabilities"))
		return negotiate(args, ready);
	if (!*ready)
		return control_refusal("CommandNotFound", "Expecting capabilities negotiation "
							  "with 'qmp_capabilities'");
	for_each_control_command (pp) {
		json_t *refusal;

		if (strcmp((*pp)->name, name))
			continue;
		if (aside && !control_is_aside(name))
			return control_refusal("GenericError",
					       "The command %.100s has to wait until the "
					       "migration goes on",
					       name);
		refusal = (*pp)->args ? check_args((*pp)->args, args) : NULL;
		return refusal ? refusal : run(vm, *pp, args);
	}
	return control_refusal("CommandNotFound", "The command %.100s has not been found", name);
}

json_t *control_answer(struct vm *vm, bool *ready, bool aside, const char *text, size_t len)
{
	json_error_t at;
	json_t *request = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &at);
	json_t *args, *reply;

	if (!request)
		return control_refusal("GenericError", "JSON parse error, %.200s (byte %d)",
				       at.text, at.position);
	reply = check_form(request);
	if (!reply) {
		args = json_object_get(request, "arguments");
		args = args ? json_incref(args) : json_object();
		reply = dispatch(vm, ready, aside,
				 json_string_value(json_object_get(request, "execute")), args);
		json_decref(args);
	}
	if (reply && json_object_get(request, "id"))
		json_object_set(reply, "id", json_object_get(request, "id"));
	json_decref(request);
	return reply;
}
