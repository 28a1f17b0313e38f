/* What all fake libraries share: the trace, and the state of the card that is played.

   Settings, read at each use so that a test may change them:
     FAKE_SM      compute capability without the dot, 90 by default
     FAKE_MEMORY  bytes of the card, 64 GiB by default
     FAKE_LOST    a file; once it exists, the device is lost
     FAKE_HOLD    a file; captures wait until it is gone
     FAKE_FAULT   if set, the next product finds the device lost, and the file is made
     FAKE_TRACE   the file that gets a line for each event; none: no trace
   A line is one write to a file opened for appending, so lines of several libraries and threads
   stay whole. */
#ifndef FAKE_TRACE_H
#define FAKE_TRACE_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void trace(const char *format, ...)
{
    static __thread int file = -1;
    const char *path = getenv("FAKE_TRACE");
    if (path == NULL)
        return;
    if (file < 0)
        file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    if (file < 0 || write(file, line, (size_t)length) != length)
        abort(); /* a trace with holes would prove nothing */
}

/* 90 for 9.0 */
static inline int capability(void)
{
    const char *found = getenv("FAKE_SM");
    return found ? atoi(found) : 90;
}

static inline int lost(void)
{
    const char *file = getenv("FAKE_LOST");
    return file != NULL && access(file, F_OK) == 0;
}

static inline void fault(void)
{
    const char *file = getenv("FAKE_LOST");
    if (getenv("FAKE_FAULT") == NULL)
        return;
    int made = file ? open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (made < 0)
        abort();
    close(made);
}

#endif
