/* Prints the most frequent words of a text: a command in C, without any SDK.
 *
 *     wordfreq [COUNT] < TEXT
 *
 * The text comes on stdin; COUNT (10 otherwise) lines "count word" go to stdout, the most frequent first. Words are runs of
 * ASCII letters, compared in lower case; longer ones are cut at WORD_BYTES_MAX.
 */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_BYTES_MAX = 63, TOP_DEFAULT = 10, SLOTS_MIN = 1024 };

struct entry {
    char word[WORD_BYTES_MAX + 1]; /* empty when the slot is free */
    unsigned long count;
};

/* A hash table with open addressing; the number of slots is a power of two and at most half of them are taken. */
struct table {
    struct entry *slots;
    size_t slots_len;
    size_t taken;
};

static void fail(const char *what) {
    fprintf(stderr, "wordfreq: %s\n", what);
    exit(EXIT_FAILURE);
}

/* FNV-1a, 32 bits: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint32_t hash(const char *word) {
    uint32_t hash = 2166136261u;
    for (; *word != '\0'; word++) {
        hash = (hash ^ (unsigned char)*word) * 16777619u;
    }
    return hash;
}

/* The slot that holds the word, or the free one where it belongs. */
static struct entry *find(const struct table *table, const char *word) {
    size_t place = hash(word) & (table->slots_len - 1);
    while (table->slots[place].word[0] != '\0' && strcmp(table->slots[place].word, word) != 0) {
        place = (place + 1) & (table->slots_len - 1);
    }
    return &table->slots[place];
}

static struct table table_with(size_t slots_len) {
    struct table table = {calloc(slots_len, sizeof *table.slots), slots_len, 0};
    if (table.slots == NULL) {
        fail("out of memory");
    }
    return table;
}

static void grow(struct table *table) {
    struct table larger = table_with(table->slots_len * 2);
    for (size_t place = 0; place < table->slots_len; place++) {
        const struct entry *entry = &table->slots[place];
        if (entry->word[0] != '\0') {
            *find(&larger, entry->word) = *entry;
        }
    }
    larger.taken = table->taken;
    free(table->slots);
    *table = larger;
}

static void count_word(struct table *table, const char *word) {
    struct entry *entry = find(table, word);
    entry->count++;
    if (entry->word[0] != '\0') {
        return;
    }
    strcpy(entry->word, word);
    table->taken++;
    if (table->taken * 2 > table->slots_len) {
        grow(table);
    }
}

static void count_words(struct table *table, FILE *text) {
    char word[WORD_BYTES_MAX + 1];
    size_t word_len = 0;
    int byte;
    do {
        byte = getc(text);
        if (byte != EOF && isalpha(byte)) {
            if (word_len < WORD_BYTES_MAX) {
                word[word_len++] = (char)tolower(byte);
            }
        } else if (word_len > 0) {
            word[word_len] = '\0';
            count_word(table, word);
            word_len = 0;
        }
    } while (byte != EOF);
    if (ferror(text)) {
        fail("cannot read stdin");
    }
}

/* The most frequent first; equally frequent ones in alphabetical order; free slots last. */
static int by_count(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->count != b->count) {
        return a->count > b->count ? -1 : 1;
    }
    return strcmp(a->word, b->word);
}

static size_t parse_count(const char *text) {
    char *end;
    errno = 0;
    unsigned long count = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-') {
        fail("COUNT must be a number; usage: wordfreq [COUNT] < TEXT");
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc > 2) {
        fail("usage: wordfreq [COUNT] < TEXT");
    }
    size_t top = argc == 2 ? parse_count(argv[1]) : TOP_DEFAULT;
    struct table table = table_with(SLOTS_MIN);
    count_words(&table, stdin);
    qsort(table.slots, table.slots_len, sizeof *table.slots, by_count);
    for (size_t place = 0; place < top && place < table.taken; place++) {
        printf("%7lu %s\n", table.slots[place].count, table.slots[place].word);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fail("cannot write stdout");
    }
    return EXIT_SUCCESS;
}
