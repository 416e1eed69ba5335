/* The cameras on offer, the quirks of their vendors' producers and cameras, and what each says of itself: its description. */
#define _GNU_SOURCE
#include "camera.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Size and rate are the models'. Assumed, for want of a vendor's description: the Bayer patterns, exposure minimum and gain range.
 * The nominal exposure, the value after power-on, is ours: with it and gain 0 a scene is seen exactly as it is. */
const struct model models[MODELS] = {
    {
        .serial = "SIM-MER131",
        .vendor = "Daheng Imaging (simulated)",
        .name = "MER-131-75GC-P",
        .display = "MER-131-75GC-P SIM-MER131 (simulated)",
        .transport = "GEV",
        .mac = "02-00-00-00-01-31",
        .width = 1280,
        .height = 1024,
        .formats = {"Mono8", "BayerRG8"},
        .frame_rate_max = 75.0,
        .nominal_exposure_us = 4000.0,
        .exposure_min_us = 20.0,
        .gain_max_db = 16.0,
    },
    {
        .serial = "SIM-MQ042",
        .vendor = "XIMEA (simulated)",
        .name = "MQ042CG-CM",
        .display = "MQ042CG-CM SIM-MQ042 (simulated)",
        .transport = "U3V",
        .mac = "02-00-00-00-00-42",
        .width = 2048,
        .height = 2048,
        .formats = {"Mono8", "BayerGB8"},
        .frame_rate_max = 90.0,
        .nominal_exposure_us = 2000.0,
        .exposure_min_us = 30.0,
        .gain_max_db = 6.0,
    },
};

/* docs/simulated-producer.md has the source of each quirk and says which are assumed. */
static const struct profile STANDARD = {.name = "standard", .conditions = ""};
static const struct profile VENDORS[MODELS] = {
    {
        .name = "daheng",
        .module_maps = true,
        .formats = {"Mono10", "BayerRG10"},
        .conditions = "noserial\nidbits 16\nclock 125000000\n",
    },
    {
        .name = "ximea",
        .transport = "Custom",
        .always_paced = true,
        .formats = {"Mono16", "BayerGB16"},
        .conditions = "nullrevoke always\nclock 1000000\n",
    },
};

/* ---------------------------------------------------------------- profiles */

static bool choose(struct camera cameras[MODELS], const char *word) {
    if (strcmp(word, "formats") == 0) {
        for (int i = 0; i < MODELS; i++)
            cameras[i].all_formats = true;
        return true;
    }
    for (int i = 0; i < MODELS; i++)
        if (strcmp(word, VENDORS[i].name) == 0) {
            cameras[i].profile = &VENDORS[i];
            return true;
        }
    return false;
}

/* Makes of the cameras what $STATION_SIMULATED_PROFILES says. */
GC_ERROR choose_profiles(struct camera cameras[MODELS]) {
    const char *chosen = getenv("STATION_SIMULATED_PROFILES");
    char text[64], *rest = text;
    if (snprintf(text, sizeof text, "%s", chosen ? chosen : "") >= (int)sizeof text)
        return fail(GC_ERR_INVALID_VALUE, "STATION_SIMULATED_PROFILES is too long");
    for (int i = 0; i < MODELS; i++) {
        cameras[i].profile = &STANDARD;
        cameras[i].all_formats = false;
    }
    for (char *word; (word = strsep(&rest, ", "));)
        if (*word && !choose(cameras, word))
            return fail(GC_ERR_INVALID_VALUE, "STATION_SIMULATED_PROFILES: %s is not one of daheng, ximea, formats", word);
    for (int i = 0; i < MODELS; i++) {
        const struct model *model = cameras[i].model;
        if (cameras[i].profile->module_maps)
            snprintf(cameras[i].id, sizeof cameras[i].id, "%s(%s)", model->name, model->mac);
        else
            snprintf(cameras[i].id, sizeof cameras[i].id, "%s", model->serial);
    }
    return GC_ERR_SUCCESS;
}

static bool is_among(const char *name, const char *const names[], int count) {
    for (int i = 0; i < count && names[i]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

bool offers(const struct camera *camera, const struct format *format) {
    bool issue_formats = strcmp(format->name + strlen(format->name) - 2, "16") != 0;
    return is_among(format->name, camera->model->formats, ALWAYS_FORMATS) || (camera->all_formats && issue_formats) ||
           is_among(format->name, camera->profile->formats, MORE_FORMATS);
}

/* ---------------------------------------------------------------- the descriptions */

/* They lie in the producer itself, so that they are found wherever it stands. */
#define EMBED(name, file)                                                                                 \
    __asm__(".section .rodata\n.hidden " name ", " name "_end\n.global " name ", " name "_end\n" name ":\n" \
            ".incbin \"" file "\"\n" name "_end:\n.byte 0\n.previous\n")
EMBED("camera_xml", "camera.xml");
EMBED("interface_xml", "interface.xml");
EMBED("stream_xml", "stream.xml");
extern const char camera_xml[] __attribute__((visibility("hidden"))), camera_xml_end[] __attribute__((visibility("hidden")));

static char *append(char *end, const char *text, size_t length) {
    memcpy(end, text, length);
    return end + length;
}

static char *append_formats(const struct camera *camera, char *end) {
    const struct format *format;
    for (size_t i = 0; (format = format_at(i)); i++)
        if (offers(camera, format))
            end += sprintf(end, "    <EnumEntry Name=\"%s\" NameSpace=\"Standard\"><Value>0x%08llX</Value></EnumEntry>\n", format->name,
                           (unsigned long long)format->value);
    return end;
}

static bool has_word(const char *line, size_t length, const char *word) { return memmem(line, length, word, strlen(word)) != NULL; }

/* camera.xml as far as it is this camera's: lines below `only: NAMES` are for the profiles of these names, those below `all` for every one. */
bool describe(struct camera *camera) {
    enum { ENTRIES = 8192 };
    bool mine = true;
    char *end = camera->description = malloc((size_t)(camera_xml_end - camera_xml) + ENTRIES);
    if (!end)
        return false;
    for (const char *line = camera_xml; line < camera_xml_end;) {
        const char *newline = memchr(line, '\n', (size_t)(camera_xml_end - line));
        size_t length = (size_t)((newline ? newline + 1 : camera_xml_end) - line);
        if (has_word(line, length, "<!-- only: "))
            mine = has_word(line, length, camera->profile->name);
        else if (has_word(line, length, "<!-- all -->"))
            mine = true;
        else if (has_word(line, length, "<!-- pixel formats -->"))
            end = append_formats(camera, end);
        else if (mine)
            end = append(end, line, length);
        line += length;
    }
    camera->description_size = (size_t)(end - camera->description);
    return true;
}
