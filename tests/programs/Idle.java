import java.io.FileWriter;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** A pool of eight idle workers, and a main thread that sleeps. */
public class Idle {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        for (int i = 0; i < 8; i++) {
            pool.submit(() -> { Thread.sleep(10); return null; });
        }
        Thread.sleep(300);
        try (FileWriter report = new FileWriter(System.getenv("RUNG_LAB_REPORT"), true)) {
            report.write("ready 8\n");
        }
        Thread.sleep(Long.parseLong(System.getenv("RUNG_LAB_SECONDS")) * 1000);
        Runtime.getRuntime().halt(0);
    }
}
