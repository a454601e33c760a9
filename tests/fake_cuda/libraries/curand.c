/* cuRAND: the provider names it as a library that it needs, and calls nothing of it. */
int curandGetVersion(int *version) {
    *version = 10400;
    return 0;
}
