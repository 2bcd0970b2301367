/* SPDX-License-Identifier: BSD-2-Clause */
/* Errors and command arguments as JSON. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/control.h"

json_t *json_text(const char *text)
{
	json_t *json = json_string(text);
	char *copy;

	if (json)
		return json;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++) {
		if (*p & 0x80)
			*p = '?';
	}
	json = json_string(copy);
	free(copy);
	return json;
}

json_t *error_to_json(const struct error *err)
{
	char sentence[640];

	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "phase", json_text(err->phase), "device",
			 json_text(err->device), "field", json_text(err->field), "expected",
			 json_text(err->expected), "got", json_text(err->got), "desc",
			 json_text(error_sentence(err, sentence, sizeof(sentence))));
}

static const char *text_at(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

void error_from_json(const json_t *json, struct error *err)
{
	error_clear(err);
	error_set(err, -EREMOTEIO, text_at(json, "phase"), text_at(json, "device"),
		  text_at(json, "field"), text_at(json, "expected"), "%s", text_at(json, "got"));
}

static const char *type_name(const json_t *json)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",	 [JSON_STRING] = "a string",
		[JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false",	     [JSON_NULL] = "null",
	};

	return json ? names[json_typeof(json)] : "nothing";
}

/* 0 when absent and that is fine, 1 when there is a value of one of two types. */
static int find(json_t *args, const char *name, bool required, json_type a, json_type b,
		const char *expected, json_t **value, struct error *err)
{
	*value = json_object_get(args, name);
	if (!*value && !required)
		return 0;
	if (*value && (json_typeof(*value) == a || json_typeof(*value) == b))
		return 1;
	return error_set(err, -EINVAL, "control", "argument", name, expected, "%s",
			 type_name(*value));
}

int control_arg_int(json_t *args, const char *name, bool required, int64_t min, int64_t max,
		    int64_t *out, struct error *err)
{
	int64_t n;
	json_t *value;
	int ret = find(args, name, required, JSON_INTEGER, JSON_INTEGER, "an integer", &value, err);

	if (ret <= 0)
		return ret;
	n = json_integer_value(value);
	if (n < min || n > max) {
		error_set(err, -EINVAL, "control", "argument", name, "", "%" PRId64, n);
		error_expected(err, "%" PRId64 " to %" PRId64, min, max);
		return -EINVAL;
	}
	*out = n;
	return 0;
}

int control_arg_bool(json_t *args, const char *name, bool required, bool *out, struct error *err)
{
	json_t *value;
	int ret = find(args, name, required, JSON_TRUE, JSON_FALSE, "true or false", &value, err);

	if (ret <= 0)
		return ret;
	*out = json_is_true(value);
	return 0;
}

int control_arg_string(json_t *args, const char *name, bool required, const char **out,
		       struct error *err)
{
	json_t *value;
	int ret = find(args, name, required, JSON_STRING, JSON_STRING, "a string", &value, err);

	if (ret <= 0)
		return ret;
	*out = json_string_value(value);
	return 0;
}
