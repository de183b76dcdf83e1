import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.HashSet;
import java.util.Set;

/**
 * A gate between a client and one server, which can be shut: then the client's connections end,
 * and new ones are ended at once. It opens to any server, so that a client can be led from one to
 * another.
 */
final class Gate implements Closeable {
    private static final int BUFFER_BYTES = 16 * 1024;

    private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final Set<Socket> connections = new HashSet<>();
    private InetSocketAddress server;

    /** A gate that is open to the server at HOST:PORT. */
    Gate(String address) throws IOException {
        open(address);
        start(this::accept);
    }

    /** What a client connects to. */
    String address() {
        return listener.getInetAddress().getHostAddress() + ":" + listener.getLocalPort();
    }

    synchronized void open(String address) {
        int colon = address.lastIndexOf(':');
        server = new InetSocketAddress(address.substring(0, colon), Integer.parseInt(address.substring(colon + 1)));
    }

    synchronized void shut() throws IOException {
        server = null;
        for (Socket connection : connections) {
            connection.close();
        }
        connections.clear();
    }

    @Override
    public void close() throws IOException {
        shut();
        listener.close();
    }

    private void accept() throws IOException {
        while (true) {
            admit(listener.accept());
        }
    }

    private synchronized void admit(Socket client) throws IOException {
        if (server == null) {
            client.close();
            return;
        }
        Socket onwards = new Socket();
        connections.add(client);
        connections.add(onwards);
        try {
            onwards.connect(server);
        } catch (IOException unreachable) {
            client.close();
            return;
        }
        start(() -> pump(client, onwards));
        start(() -> pump(onwards, client));
    }

    private static void pump(Socket from, Socket to) throws IOException {
        try (from; to) {
            InputStream in = from.getInputStream();
            OutputStream out = to.getOutputStream();
            byte[] buffer = new byte[BUFFER_BYTES];
            for (int length = in.read(buffer); length >= 0; length = in.read(buffer)) {
                out.write(buffer, 0, length);
            }
        }
    }

    /** A thread that ends with the first socket that was closed. */
    private static void start(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (IOException closed) {
                // The other end left, or the gate was shut.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    private interface Work {
        void run() throws IOException;
    }
}
