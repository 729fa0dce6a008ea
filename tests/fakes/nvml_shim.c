/* A stand-in for libnvidia-ml.so.1: boards whose power a test sets and whose counters run in real
 * time, behind the functions that nvidia-ml-py calls. The driver's version begins with "fake".
 *
 *   cc -shared -fPIC -o libnvidia-ml.so.1 nvml_shim.c      then LD_LIBRARY_PATH=its folder
 *
 * A test controls it through the same loaded library:
 *   fake_power(board, watts)            from now on
 *   fake_set(board, name, value)        see struct board; "utilisation", "mig", "update_s", ...
 *   fake_begun_s()                      CLOCK_MONOTONIC when the counters began their periods
 *   fake_fail(board, what, code)        "energy", "power" (per field), "fields" (the call), "mig", ...
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NUM_BOARDS 3
#define NUM_CHANGES 200000
#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define POWER_INSTANT 186
#define POWER_AVERAGE 185

typedef struct {
    double time_s, watts, before_j; /* from time_s on; joules until then */
} change_t;

typedef struct {
    double update_s, part_s, limit_w, stuck, offset_mj, mig, utilisation, num_foreign, module,
        temperature_c;
    int fail_energy, fail_power, fail_fields, fail_mig, fail_temperature;
    change_t changes[NUM_CHANGES];
    int num_changes;
    double stuck_mj;
} board_t;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    uint32_t type, code;
    union {
        double d;
        uint32_t ui;
        uint64_t ull;
    } value;
} field_t;

typedef struct {
    uint32_t pid;
    uint64_t memory;
    uint32_t gpu_instance, compute_instance;
} process_t;

static board_t boards[NUM_BOARDS];
static double begun_s;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int number(void *handle) { return (int)((uintptr_t)handle - 1); }
static board_t *board(void *handle) { return &boards[number(handle)]; }

static void change(board_t *b, double watts) {
    double now = now_s(), before_j = 0;
    if (b->num_changes) {
        change_t *last = &b->changes[b->num_changes - 1];
        before_j = last->before_j + last->watts * (now - last->time_s);
    }
    if (b->num_changes < NUM_CHANGES)
        b->changes[b->num_changes++] = (change_t){now, watts, before_j};
}

static double joules(board_t *b, double time_s) {
    int k = b->num_changes - 1;
    while (k > 0 && b->changes[k].time_s > time_s) k--;
    double past_s = time_s - b->changes[k].time_s;
    return b->changes[k].before_j + b->changes[k].watts * (past_s > 0 ? past_s : 0);
}

/* Energy by a sensor that samples only the first part_s of each period, up to time_s. */
static double seen(board_t *b, double time_s) {
    double total = 0;
    for (double t = begun_s; t + b->update_s <= time_s + 1e-9; t += b->update_s)
        total += (joules(b, t + b->part_s) - joules(b, t)) * b->update_s / b->part_s;
    return total;
}

__attribute__((constructor)) static void start(void) {
    begun_s = now_s();
    for (int k = 0; k < NUM_BOARDS; k++) {
        boards[k].update_s = 0.02;
        boards[k].limit_w = 700;
        boards[k].temperature_c = 40;
        change(&boards[k], 75);
    }
}

void fake_power(int k, double watts) {
    pthread_mutex_lock(&turn);
    change(&boards[k], watts);
    pthread_mutex_unlock(&turn);
}

double fake_begun_s(void) { return begun_s; }

static uint64_t counter_mj(board_t *b) {
    double last_s = begun_s + b->update_s * (uint64_t)((now_s() - begun_s) / b->update_s);
    double value = 1e9 + 1e3 * (b->part_s > 0 ? seen(b, last_s) : joules(b, last_s));
    return (uint64_t)((b->stuck ? b->stuck_mj : value) - b->offset_mj);
}

int fake_set(int k, const char *name, double value) {
    board_t *b = &boards[k];
    struct {
        const char *name;
        double *place;
    } known[] = {{"update_s", &b->update_s},       {"part_s", &b->part_s},
                 {"limit_w", &b->limit_w},         {"stuck", &b->stuck},
                 {"offset_mj", &b->offset_mj},     {"mig", &b->mig},
                 {"utilisation", &b->utilisation}, {"num_foreign", &b->num_foreign},
                 {"module", &b->module},           {"temperature_c", &b->temperature_c}};
    pthread_mutex_lock(&turn);
    if (!strcmp(name, "stuck")) b->stuck_mj = counter_mj(b);
    int code = INVALID_ARGUMENT;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) *known[i].place = value, code = OK;
    pthread_mutex_unlock(&turn);
    return code;
}

int fake_fail(int k, const char *what, int code) {
    board_t *b = &boards[k];
    if (!strcmp(what, "energy")) return b->fail_energy = code, OK;
    if (!strcmp(what, "power")) return b->fail_power = code, OK;
    if (!strcmp(what, "fields")) return b->fail_fields = code, OK;
    if (!strcmp(what, "mig")) return b->fail_mig = code, OK;
    if (!strcmp(what, "temperature")) return b->fail_temperature = code, OK;
    return INVALID_ARGUMENT;
}

int nvmlInitWithFlags(unsigned flags) { return (void)flags, OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return (void)code, "error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    return snprintf(text, size, "fake-1.0"), OK;
}
int nvmlSystemGetNVMLVersion(char *text, unsigned size) { return snprintf(text, size, "fake"), OK; }

int nvmlDeviceGetCount_v2(unsigned *count) { return *count = NUM_BOARDS, OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= NUM_BOARDS) return INVALID_ARGUMENT;
    return *handle = (void *)(uintptr_t)(index + 1), OK;
}

static void uuid(int k, char *text, unsigned size) {
    snprintf(text, size, "GPU-%08x-0000-0000-0000-00000000fa4e", 0xa0000000u + k);
}

int nvmlDeviceGetHandleByUUID(const char *wanted, void **handle) {
    if (!strcmp(wanted, "MIG-51ce0000-0000-0000-0000-00000000fa4e")) /* a slice of board 0 */
        return *handle = (void *)(uintptr_t)1, OK;
    for (int k = 0; k < NUM_BOARDS; k++) {
        char name[96];
        uuid(k, name, sizeof name);
        if (!strcmp(name, wanted)) return *handle = (void *)(uintptr_t)(k + 1), OK;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    return (void)handle, snprintf(text, size, "NVIDIA Stand-in"), OK;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    return uuid(number(handle), text, size), OK;
}
int nvmlDeviceGetMemoryInfo(void *handle, uint64_t *memory) {
    return (void)handle, memory[0] = 1ull << 34, memory[1] = 1ull << 33, memory[2] = 1ull << 33, OK;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, uint64_t *mj) {
    board_t *b = board(handle);
    if (b->fail_energy) return b->fail_energy;
    pthread_mutex_lock(&turn);
    *mj = counter_mj(b);
    pthread_mutex_unlock(&turn);
    return OK;
}

static uint32_t power_mw(board_t *b) {
    pthread_mutex_lock(&turn);
    uint32_t mw = (uint32_t)(1e3 * b->changes[b->num_changes - 1].watts);
    pthread_mutex_unlock(&turn);
    return mw;
}

int nvmlDeviceGetPowerUsage(void *handle, uint32_t *mw) { return *mw = power_mw(board(handle)), OK; }

int nvmlDeviceGetFieldValues(void *handle, int count, field_t *values) {
    board_t *b = board(handle);
    if (b->fail_fields) return b->fail_fields;
    for (int i = 0; i < count; i++) {
        int known = values[i].field == POWER_INSTANT || values[i].field == POWER_AVERAGE;
        values[i].code = known && values[i].scope == (b->module ? 1u : 0u) ? OK : NOT_SUPPORTED;
        if (known && b->fail_power) values[i].code = b->fail_power;
        values[i].type = 1;
        values[i].value.ui = values[i].code == OK ? power_mw(b) : 0;
    }
    return OK;
}

int nvmlDeviceGetTemperatureV(void *handle, int32_t *reading) {
    if (board(handle)->fail_temperature) return board(handle)->fail_temperature;
    return reading[2] = (int32_t)board(handle)->temperature_c, OK;
}
int nvmlDeviceGetEnforcedPowerLimit(void *handle, uint32_t *mw) {
    return *mw = (uint32_t)(1e3 * board(handle)->limit_w), OK;
}
int nvmlDeviceGetPowerManagementLimit(void *handle, uint32_t *mw) {
    return nvmlDeviceGetEnforcedPowerLimit(handle, mw);
}
int nvmlDeviceGetMigMode(void *handle, uint32_t *now, uint32_t *pending) {
    if (board(handle)->fail_mig) return board(handle)->fail_mig;
    return *now = *pending = (uint32_t)board(handle)->mig, OK;
}
int nvmlDeviceGetUtilizationRates(void *handle, uint32_t *rates) {
    return rates[0] = (uint32_t)board(handle)->utilisation, rates[1] = 0, OK;
}
int nvmlDeviceGetArchitecture(void *handle, uint32_t *family) {
    return (void)handle, *family = 9, OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, uint64_t *bits) {
    return (void)handle, *bits = 0, OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, uint32_t *count, process_t *list) {
    uint32_t found = 1 + (uint32_t)board(handle)->num_foreign;
    if (!list || *count < found) return *count = found, INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < found; i++) list[i] = (process_t){1000000 + i, 1 << 20, 0, 0};
    return *count = found, OK;
}
