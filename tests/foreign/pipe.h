/* How a test looks into a foreign PLC: over its standard input and output, a line a request.
 *
 *     r              answered by the 46 registers of the wire, in decimal
 *     w FIRST W...   sets registers from FIRST on; answered by ok
 *
 * The end of input ends the program. Whoever touches the registers holds the lock.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint16_t registers[46];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void obey(char *request) {
    char *at = request + 1;
    if (*request == 'r') {
        for (int i = 0; i < 46; i++)
            printf(i ? " %u" : "%u", registers[i]);
        printf("\n");
        return;
    }
    long first = strtol(at, &at, 10);
    for (char *next; first < 46; at = next) {
        long value = strtol(at, &next, 10);
        if (next == at)
            break;
        registers[first++] = (uint16_t)value;
    }
    printf("ok\n");
}

static void *listen_to_test(void *unused) {
    char request[1024];
    while (fgets(request, sizeof request, stdin)) {
        pthread_mutex_lock(&lock);
        obey(request);
        pthread_mutex_unlock(&lock);
        fflush(stdout);
    }
    exit(0);
    return unused;
}

static void open_to_test(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, listen_to_test, NULL))
        exit(1);
}
