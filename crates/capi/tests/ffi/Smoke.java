// Text from the model inside the library through JNA: Smoke LIBRARY.
import com.sun.jna.*;
import com.sun.jna.ptr.*;
import java.nio.charset.StandardCharsets;

public class Smoke {
    static Function function(NativeLibrary library, String name) { return library.getFunction("sherry_" + name); }

    static void ok(int status) { if (status != 0) throw new AssertionError("status " + status); }

    public static void main(String[] arguments) {
        NativeLibrary library = NativeLibrary.getInstance(arguments[0]);
        PointerByReference model = new PointerByReference(), session = new PointerByReference();
        NativeLongByReference count = new NativeLongByReference();
        byte[] text = "Once upon a time".getBytes(StandardCharsets.UTF_8);
        Memory tokens = new Memory(64 * 4);
        ok(function(library, "model_builtin").invokeInt(new Object[] {null, model}));
        ok(function(library, "tokenize").invokeInt(new Object[] {model.getValue(), text, new NativeLong(text.length), 1, tokens, new NativeLong(64), count}));
        ok(function(library, "session_new").invokeInt(new Object[] {model.getValue(), new NativeLong(0), session}));
        // sherry_sampling: ten fields of 4 bytes, the seed, a pointer and a size.
        Memory sampling = new Memory(64);
        sampling.clear();
        sampling.setInt(0, 64);
        for (int at : new int[] {8, 12, 20}) sampling.setFloat(at, -1);
        for (int at : new int[] {16, 24}) sampling.setInt(at, -1);
        sampling.setInt(36, 16);
        ok(function(library, "start").invokeInt(new Object[] {session.getValue(), tokens, count.getValue(), sampling}));
        // sherry_event: seven fields of 4 bytes, a gap, a pointer and a size.
        Memory event = new Memory(48);
        event.setInt(0, 48);
        StringBuilder out = new StringBuilder();
        int more;
        while ((more = function(library, "next").invokeInt(new Object[] {session.getValue(), event})) > 0) {
            int length = (int) event.getLong(40);
            if (length > 0) out.append(new String(event.getPointer(32).getByteArray(0, length), StandardCharsets.UTF_8));
        }
        ok(-more);
        function(library, "session_free").invokeVoid(new Object[] {session.getValue()});
        function(library, "model_free").invokeVoid(new Object[] {model.getValue()});
        if (out.length() < 10) throw new AssertionError(out);
        System.out.println("ok " + out);
    }
}
