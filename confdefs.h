/* confdefs.h */
#define PACKAGE_NAME "nbdinetd"
#define PACKAGE_TARNAME "nbdinetd"
#define PACKAGE_VERSION "0.1"
#define PACKAGE_STRING "nbdinetd 0.1"
#define PACKAGE_BUGREPORT ""
#define PACKAGE_URL ""
#define PACKAGE "nbdinetd"
#define VERSION "0.1"
