/* A PLC that speaks in lines, written from the wire's page alone:  ascii_plc PORT
 *
 * Its 46 registers are those of the other dialect: what the test writes into 32..45 it says, what the station says it keeps in 0..23.
 */
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "pipe.h"

static int port;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static unsigned sum(const char *body) {
    unsigned value = 0;
    while (*body)
        value ^= (unsigned char)*body++;
    return value;
}

static void say(const char *body) {
    char line[128];
    int length = snprintf(line, sizeof line, "%s*%02X\r", body, sum(body));
    if (write(port, line, (size_t)length) < 0)
        return; /* the station is away; it hears the next one */
}

static void say_number(const char *format, unsigned number) {
    char body[64];
    snprintf(body, sizeof body, format, number);
    say(body);
}

static void say_command(void) {
    static const char *verbs[] = {"", "RCP", "UNP", "RUN", "STP", "RST", "HLT"};
    unsigned code = registers[33];
    char body[64];
    if (code < 1 || code > 6)
        return;
    if (code == 1)
        snprintf(body, sizeof body, "RCP,%u,%u", registers[34], registers[35]);
    else
        snprintf(body, sizeof body, "%s,%u", verbs[code], registers[35]);
    say(body);
}

static void say_trigger(void) {
    char body[64], id[17] = "";
    for (int i = 0; i < 8; i++) {
        id[2 * i] = (char)(registers[38 + i] >> 8);
        id[2 * i + 1] = (char)(registers[38 + i] & 0xFF);
    }
    snprintf(body, sizeof body, *id ? "TRG,%05u,%s" : "TRG,%05u", registers[37], id);
    say(body);
}

/* What the registers say and was not said yet; every tenth of a second heartbeat and status, and a command without an echo again. */
static void speak(void) {
    static uint16_t command, taken, trigger[9];
    static double beat;
    int due = now() - beat > 0.1;
    int waits = registers[33] && registers[19] != registers[35];
    if (registers[35] != command || (due && waits))
        say_command();
    command = registers[35];
    if (memcmp(trigger, registers + 37, sizeof trigger))
        say_trigger();
    memcpy(trigger, registers + 37, sizeof trigger);
    if (registers[36] != taken && registers[36])
        say_number("TAK,%05u", registers[36]);
    taken = registers[36];
    if (!registers[33] && registers[20] > 1)
        registers[20] = 0;
    if (due) {
        beat = now();
        say_number("HBT,%u", registers[32]);
        say("STS");
    }
}

static void hear(const char *body) {
    unsigned n[8];
    char verdict, verb[4];
    if (sscanf(body, "RES,%u,%c,%u,%u,%u,%u,%u,%X,%u", &n[0], &verdict, &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7]) == 9) {
        uint16_t head[] = {n[0], verdict == 'P' ? 0x5AA5 : 0, n[1], n[2], n[3], n[4]}, tail[] = {n[7], n[5], n[6]};
        memcpy(registers + 5, head, sizeof head);
        memcpy(registers + 16, tail, sizeof tail);
        registers[23] = n[0];
        if (n[0] == registers[36])
            say_number("TAK,%05u", n[0]);
    } else if (sscanf(body, "STS,%u,%u,%u,%X,%u,HB%u", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5]) == 6) {
        uint16_t head[] = {1, n[0], n[5], n[2], n[3]};
        memcpy(registers, head, sizeof head);
        registers[21] = n[1];
    } else if (sscanf(body, "HBT,%u", &n[0]) == 1) {
        registers[2] = n[0];
    } else if (sscanf(body, "ACK,%3[A-Z],%u", verb, &n[0]) == 2 && n[0] == registers[35] && registers[19] != n[0]) {
        registers[19] = n[0];
        registers[20] = 1;
    } else if (sscanf(body, "DON,%3[A-Z],%u", verb, &n[0]) == 2 && n[0] == registers[35]) {
        registers[19] = n[0];
        registers[20] = 2;
    } else if (sscanf(body, "ERR,%3[A-Z],%u,%u", verb, &n[0], &n[1]) == 3 && n[0] == registers[35]) {
        registers[19] = n[0];
        registers[20] = 3;
        registers[21] = n[1];
    }
}

static void take(char byte) {
    static char heard[256];
    static size_t length;
    if (byte != '\r') {
        if (byte != '\n' && length < sizeof heard - 1)
            heard[length++] = byte;
        return;
    }
    heard[length] = 0;
    length = 0;
    char *star = strrchr(heard, '*');
    if (!star)
        return;
    *star = 0;
    if (strtoul(star + 1, NULL, 16) == sum(heard))
        hear(heard);
}

int main(int count, char **words) {
    struct termios line;
    char byte;
    if (count != 2 || (port = open(words[1], O_RDWR | O_NOCTTY | O_NONBLOCK)) < 0)
        return 2;
    tcgetattr(port, &line);
    cfmakeraw(&line);
    tcsetattr(port, TCSANOW, &line);
    open_to_test();
    for (;;) {
        struct pollfd end = {port, POLLIN, 0};
        poll(&end, 1, 5);
        pthread_mutex_lock(&lock);
        while (read(port, &byte, 1) == 1)
            take(byte);
        speak();
        pthread_mutex_unlock(&lock);
    }
}
