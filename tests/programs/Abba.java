import java.io.FileWriter;
import java.lang.management.ManagementFactory;
import java.util.concurrent.CyclicBarrier;

/** Two threads, two monitors, opposite order; main joins both. The JVM itself says when they deadlocked. */
public class Abba {
    public static void main(String[] args) throws Exception {
        Lab.bound();
        Object first = new Object();
        Object second = new Object();
        CyclicBarrier bothHold = new CyclicBarrier(2);
        Thread a = half("lab-a", first, second, bothHold);
        Thread b = half("lab-b", second, first, bothHold);
        while (ManagementFactory.getThreadMXBean().findDeadlockedThreads() == null) {
            Thread.sleep(5);
        }
        Lab.say("deadlocked", 1);
        a.join();
        b.join();
    }

    static Thread half(String name, Object mine, Object theirs, CyclicBarrier bothHold) {
        Thread thread = new Thread(() -> {
            synchronized (mine) {
                try {
                    bothHold.await();
                } catch (Exception e) {
                    throw new RuntimeException(e);
                }
                synchronized (theirs) {
                    theirs.notify();
                }
            }
        }, name);
        thread.start();
        return thread;
    }
}

class Lab {
    static void say(String key, long value) throws Exception {
        try (FileWriter report = new FileWriter(System.getenv("RUNG_LAB_REPORT"), true)) {
            report.write(key + " " + value + "\n");
        }
    }

    /** A daemon thread ends the process after the time of the lab; it sleeps by the clock. */
    static void bound() {
        long seconds = Long.parseLong(System.getenv("RUNG_LAB_SECONDS"));
        Thread clock = new Thread(() -> {
            try {
                Thread.sleep(seconds * 1000);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            Runtime.getRuntime().halt(0);
        }, "lab-bound");
        clock.setDaemon(true);
        clock.start();
    }
}
